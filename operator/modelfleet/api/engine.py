"""The inference engines Modelfleet speaks to."""

from enum import StrEnum


class Engine(StrEnum):
    """An engine's dialect: which metric names, paths and flags its server has."""

    VLLM = "vllm"
    SGLANG = "sglang"
    TGI = "tgi"
    TRTLLM = "trtllm"
    NIM = "nim"
    LLAMACPP = "llamacpp"

"""The first act: three models in two namespaces follow a load up and down."""

from __future__ import annotations

import os
import time

from rich.table import Table

from sandbox.demo.stage import (
    WIDE,
    Load,
    Model,
    Seen,
    Stage,
    deployment_lines,
    deployments_table,
    draw,
    end_loads,
    say,
    show,
)

LOAD_SECONDS = 75
TRACE_SECONDS = 120
SETTLE_SECONDS = 75
"""After the load: drains, one scale-down window, and what a busy machine needs more."""
TARGETS = {"queuedRequests": 4}

MODELS = (
    Model(
        namespace="team-a",
        name="llama-8b",
        model="meta-llama/Llama-3.1-8B-Instruct",
        runtime="vllm",
        accelerator="h100",
        gpus=1,
        max_replicas=6,
        engine={"imagePullSeconds": 1, "modelLoadSeconds": 5, "maxRunning": 8, "decodeBaseMs": 30},
        rate=13,
        output_tokens=64,
        targets=TARGETS,
    ),
    Model(
        namespace="team-a",
        name="qwen-32b",
        model="Qwen/Qwen2.5-32B-Instruct",
        runtime="sglang",
        accelerator="h100",
        gpus=2,
        max_replicas=5,
        engine={"imagePullSeconds": 2, "modelLoadSeconds": 6, "maxRunning": 6, "decodeBaseMs": 40},
        rate=7,
        output_tokens=64,
        targets=TARGETS,
    ),
    Model(
        namespace="team-b",
        name="gemma-4b",
        model="ggml-org/gemma-3-4b-it-GGUF",
        runtime="llamacpp",
        accelerator="a100",
        gpus=1,
        max_replicas=4,
        engine={"imagePullSeconds": 1, "modelLoadSeconds": 4, "maxRunning": 4, "decodeBaseMs": 35},
        rate=5,
        output_tokens=48,
        targets=TARGETS,
    ),
)


def play(stage: Stage) -> list[str]:
    """Play it; return what did not happen."""
    say("first act: replicas follow the load")
    seen = stage.deploy(MODELS)
    # Each engine takes its own moment to be first; the load begins when all serve.
    loads = [_start(stage, model) for model in MODELS]
    began = time.monotonic()
    say("load rises, bursts and falls" if not os.environ.get("TRACE") else f"replaying {os.environ['TRACE']}")
    tallest = 0

    def picture(width: int) -> Table:
        return deployments_table(seen, width, title=f"Modelfleet, {time.monotonic() - began:.0f} s of load")

    def step() -> bool:
        nonlocal tallest
        stage.observe(seen)
        total = sum(row.status.get("desiredReplicas", 0) for row in seen.values())
        if total >= tallest:
            tallest = total
            draw(picture(WIDE))
        return all(load.done for load in loads) and all(
            row.status.get("desiredReplicas") == 1 and row.status.get("replicas") == 1 for row in seen.values()
        )

    try:
        show(
            stage,
            step,
            picture=picture,
            lines=lambda: deployment_lines(seen),
            seconds=(TRACE_SECONDS if os.environ.get("TRACE") else LOAD_SECONDS) + SETTLE_SECONDS,
            began=began,
        )
        faults = _judge(seen, loads)
    finally:
        end_loads(loads)
    # The second act has the GPUs for itself.
    stage.sandbox.kubectl("delete", "modeldeployments", "--all", "--all-namespaces")
    return faults


def _start(stage: Stage, model: Model) -> Load:
    trace = os.environ.get("TRACE")
    if trace:
        scale = ("--time-scale", os.environ.get("TIME_SCALE", "4"), "--rate-scale", os.environ.get("RATE_SCALE", "0.3"))
        return stage.load(
            model, "--trace", trace, *scale, "--max-tokens-cap", "256", "--max-seconds", str(TRACE_SECONDS)
        )
    shape = ("--shape", "rise-burst-fall", "--rate", str(model.rate), "--duration", str(LOAD_SECONDS))
    return stage.load(model, *shape, "--output-tokens", str(model.output_tokens), "--prompt-tokens", "50")


def _judge(seen: dict[str, Seen], loads: list[Load]) -> list[str]:
    faults = []
    for load in loads:
        row = seen[load.key]
        settled = row.status.get("desiredReplicas", 0)
        say(f"{load.key}: replicas 1 → {row.highest} → {settled}")
        if row.highest < 2:
            faults.append(f"{load.key} did not scale out")
        if settled >= row.highest:
            faults.append(f"{load.key} did not scale in: {settled} of {row.highest} replicas are left")
        faults += load.judge()
    return faults

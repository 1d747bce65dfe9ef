"""The product as its image has it: decide/ compiled by mypyc."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from sandbox.binaries import cache_directory
from sandbox.cluster import CHECKOUT

PRODUCT = CHECKOUT / "operator" / "modelfleet"
COMPILE = CHECKOUT / "operator" / "compile_decide.py"


class CompileError(Exception):
    """decide/ cannot be compiled here; the message has the compiler's words."""


def compiled() -> Path:
    """Return a folder with the compiled product in it, for PYTHONPATH; made in a minute where the cache has it not.

    Raises:
        CompileError: There is no C compiler, or mypyc refuses the code.
    """
    content = hashlib.sha256(f"{sys.implementation.cache_tag} {version('mypy')}".encode() + COMPILE.read_bytes())
    for file in sorted(PRODUCT.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            content.update(str(file.relative_to(PRODUCT)).encode() + b"\0" + file.read_bytes())
    folder = cache_directory().parent.parent / "compiled" / content.hexdigest()[:16]
    if not folder.exists():
        print("compiling decide/ with mypyc: a minute, once", file=sys.stderr)
        done = subprocess.run(
            [sys.executable, COMPILE, PRODUCT, folder],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise CompileError(f"mypyc failed; is there a C compiler (gcc)?\n{done.stdout}")
    return folder

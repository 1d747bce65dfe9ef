"""The product as its image has it: decide/ compiled by mypyc, as the Containerfile does it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from sandbox.binaries import cache_directory
from sandbox.cluster import CHECKOUT

PRODUCT = CHECKOUT / "operator" / "modelfleet"
OPTIONS = {"MYPYC_OPT_LEVEL": "1", "MYPYC_DEBUG_LEVEL": "0"}


class CompileError(Exception):
    """decide/ cannot be compiled here; the message has the compiler's words."""


def compiled() -> Path:
    """Return a folder with the compiled product in it, for PYTHONPATH; made in a minute where the cache has it not.

    Raises:
        CompileError: There is no C compiler, or mypyc refuses the code.
    """
    content = hashlib.sha256(f"{sys.implementation.cache_tag} {version('mypy')} {OPTIONS}".encode())
    for file in sorted(PRODUCT.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            content.update(str(file.relative_to(PRODUCT)).encode() + b"\0" + file.read_bytes())
    folder = cache_directory().parent.parent / "compiled" / content.hexdigest()[:16]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / "made"
            shutil.copytree(PRODUCT, made / PRODUCT.name, ignore=shutil.ignore_patterns("__pycache__"))
            print("compiling decide/ with mypyc: a minute, once", file=sys.stderr)
            modules = [str(file.relative_to(made)) for file in made.glob("modelfleet/decide/[a-z]*.py")]
            done = subprocess.run(
                [sys.executable, "-m", "mypyc", *sorted(modules)],
                cwd=made,
                env=os.environ | OPTIONS,
                check=False,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if done.returncode:
                raise CompileError(f"mypyc failed; is there a C compiler (gcc)?\n{done.stdout}")
            shutil.rmtree(made / "build")
            made.rename(folder)
    return folder

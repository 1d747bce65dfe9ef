"""Compile decide/ to machine code.

    python compile_decide.py SOURCE TARGET [OPTION OF MYPYC ...]

Copies the package SOURCE into the folder TARGET and compiles the copy. mypyc leaves the __init__ of a dataclass to the
interpreter, where it takes five times as long: those of @value (decide/value.py) are written out before.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

OPTIONS = {"MYPYC_OPT_LEVEL": "1", "MYPYC_DEBUG_LEVEL": "0"}
IMPORT = "from modelfleet.decide.value import value"


def main(source: Path, target: Path, options: list[str]) -> int:
    """Return mypyc's exit code; TARGET is only made where it is 0, and then whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / target.name
        shutil.copytree(source, made / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        modules = sorted((made / source.name / "decide").glob("[a-z]*.py"))
        for module in modules:
            module.write_text(write_out(module.read_text()))
        names = [str(module.relative_to(made)) for module in modules]
        command = [sys.executable, "-m", "mypyc", *options, *names]
        done = subprocess.run(command, cwd=made, env=os.environ | OPTIONS, check=False)
        if not done.returncode:
            shutil.rmtree(made / "build")
            made.rename(target)
    return done.returncode


def write_out(source: str) -> str:
    """Return a module with the __init__ of each @value in it; everything else stays in its line."""
    lines = [*source.splitlines(), ""]
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Name) and decorator.id == "value":
                    lines[decorator.lineno - 1] = "@dataclass(init=False, unsafe_hash=True)"
                    _write_init(node, lines)
    return "\n".join(lines).replace(IMPORT, "from dataclasses import dataclass")


def _write_init(node: ast.ClassDef, lines: list[str]) -> None:
    """Put a class's __init__ into the empty line after its fields, and take their defaults out: it sets them."""
    parameters, settings, end = ["self"], [], 0
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name, annotation = statement.target.id, ast.unparse(statement.annotation)
            if annotation == "KW_ONLY":
                parameters.append("*")
                lines[statement.lineno - 1] = ""
                continue
            default = "" if statement.value is None else f" = {ast.unparse(statement.value)}"
            parameters.append(f"{name}: {annotation}{default}")
            settings.append(f"self.{name} = {name}")
            for number in range(statement.lineno, statement.end_lineno or 0):
                lines[number] = ""
            lines[statement.lineno - 1] = f"    {name}: {annotation}"
            end = statement.end_lineno or 0
        elif isinstance(statement, ast.Expr) and end:
            # The text that tells about a field.
            end = statement.end_lineno or 0
        elif end:
            break
    if not settings or lines[end]:
        message = f"class {node.name}: no fields with an empty line after them"
        raise SyntaxError(message)
    lines[end] = f"    def __init__({', '.join(parameters)}) -> None: {'; '.join(settings)}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))

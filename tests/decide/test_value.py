"""How values are declared, and what the compiler gets of them."""

import ast
import inspect

import pytest

from compile_decide import write_out
from modelfleet.decide import snapshot, value
from modelfleet.decide.snapshot import Child, Signal

SOURCE = '''from modelfleet.decide.value import value


@value
class Point:
    """A place."""

    x: float
    y: float = 0.0
    """Upwards."""

    @property
    def high(self) -> bool:
        return self.y > 1.0


@value
class Named:
    _: KW_ONLY
    name: str
    at: Point = ORIGIN

    def moved(self) -> "Named":
        return self


class Other:
    kept: int = 3
'''


def test_an_init_is_written_where_a_line_was_empty() -> None:
    """What a traceback says of a line is true of the source too."""
    written = write_out(SOURCE).splitlines()

    assert written[0] == "from dataclasses import dataclass"
    assert written[3] == "@dataclass(init=False, unsafe_hash=True)"
    assert written[8:11] == [
        "    y: float",
        '    """Upwards."""',
        "    def __init__(self, x: float, y: float = 0.0) -> None: self.x = x; self.y = y",
    ]
    assert written[18:22] == [
        "",
        "    name: str",
        "    at: Point",
        "    def __init__(self, *, name: str, at: Point = ORIGIN) -> None: self.name = name; self.at = at",
    ]
    assert written[22:] == SOURCE.splitlines()[22:]


@pytest.mark.parametrize(
    "body", ["x: float\n    def of(self) -> float: ...", "def of(self) -> float: ..."], ids=["no line", "no field"]
)
def test_where_there_is_no_place_it_says_so(body: str) -> None:
    with pytest.raises(SyntaxError, match="class Point: no fields with an empty line after them"):
        write_out(f"@value\nclass Point:\n    {body}\n")


def test_every_module_can_be_written_out() -> None:
    """And those that declare no value are left alone."""
    made = ast.parse(write_out(inspect.getsource(snapshot)))
    inits = [node for node in ast.walk(made) if isinstance(node, ast.FunctionDef) and node.name == "__init__"]

    assert len(inits) >= 7
    assert write_out(inspect.getsource(value)).strip() == inspect.getsource(value).strip()


def test_values_are_equal_by_their_fields_and_can_be_keys() -> None:
    assert Signal(1.0, 2.0) == Signal(1.0, 2.0) != Signal(1.0, 3.0)
    assert {Child(uid="a", replicas=1): 1}[Child(uid="a", replicas=1)] == 1

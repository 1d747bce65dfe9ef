"""Writes what follows from the chart's values.yaml: the table in its README, the descriptions in its schema.

    python charts/describe.py

A comment above a key of values.yaml is that key's description, here and there and nowhere else.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

CHART = Path(__file__).parent / "modelfleet"
TABLE = "<!-- values -->\n"


class Value(NamedTuple):
    """One key of values.yaml that a user may set; the path has a part for each level."""

    path: tuple[str, ...]
    default: Any
    description: str


def values(text: str) -> Iterator[Value]:
    """Yield every commented key of a values.yaml, in order.

    Raises:
        ValueError: If a leaf has no comment.
    """
    lines = text.splitlines()

    def comment(line: int) -> str:
        words: list[str] = []
        while line > 0 and lines[line - 1].lstrip().startswith("#"):
            line -= 1
            words.insert(0, lines[line].lstrip().removeprefix("#").strip())
        return " ".join(words)

    def walk(node: yaml.MappingNode, path: tuple[str, ...]) -> Iterator[Value]:
        for key, value in node.value:
            here = (*path, key.value)
            description = comment(key.start_mark.line)
            if description:
                yield Value(here, yaml.safe_load(yaml.serialize(value)), description)
            elif isinstance(value, yaml.MappingNode) and value.value:
                yield from walk(value, here)
            else:
                raise ValueError(f"{'.'.join(here)} of values.yaml has no comment that says what it is")

    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)  # noqa: S101 - a values file is a mapping
    yield from walk(root, ())


def readme(template: str, found: list[Value]) -> str:
    """Return the README: its template with the table of values in place of the mark."""
    rows = [f"| `{'.'.join(path)}` | `{json.dumps(default)}` | {description} |" for path, default, description in found]
    return template.replace(TABLE, "\n".join(["| value | default | |", "|---|---|---|", *rows]) + "\n")


def schema(text: str, found: list[Value]) -> str:
    """Return the schema with the description of every value in it.

    Raises:
        KeyError: If a value is not in the schema.
    """
    document = json.loads(text)
    for value in found:
        node = document
        for part in value.path:
            node = node["properties"][part]
        node["description"] = value.description
    return json.dumps(document, indent=2) + "\n"


def generated() -> dict[Path, str]:
    """Return what each generated file of the chart should say."""
    found = list(values((CHART / "values.yaml").read_text(encoding="utf-8")))
    file = CHART / "values.schema.json"
    return {
        CHART / "README.md": readme((CHART / "README.md.in").read_text(encoding="utf-8"), found),
        file: schema(file.read_text(encoding="utf-8"), found),
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")

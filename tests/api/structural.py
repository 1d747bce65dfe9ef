"""An independent reading of structural schemas: a walker, and a validator that knows only their keywords.

Written from the API server's documentation and not from the emitter, so that one mistake is not made twice.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CRDS = Path(__file__).parents[2] / "crds"

Schema = dict[str, Any]


def committed() -> dict[str, dict[str, Any]]:
    """Return the committed manifests by kind."""
    manifests = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(CRDS.glob("*.yaml"))]
    return {manifest["spec"]["names"]["kind"]: manifest for manifest in manifests}


def root_schema(manifest: dict[str, Any]) -> Schema:
    """Return the schema of the only version."""
    [version] = manifest["spec"]["versions"]
    schema: Schema = version["schema"]["openAPIV3Schema"]
    return schema


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Yield every node below the root with its path; .items and .* stand for elements and values."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from nodes(field, f"{path}.{name}")
    for keyword, mark in (("items", "items"), ("additionalProperties", "*")):
        if isinstance(schema.get(keyword), dict):
            yield f"{path}.{mark}", schema[keyword]
            yield from nodes(schema[keyword], f"{path}.{mark}")


def violations(schema: Schema, value: Any, path: str = "") -> list[str]:
    """Return what the API server would say about the value, CEL rules apart; nothing when it would take it."""
    expected: dict[str, type | tuple[type, ...]] = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "integer": int,
    }
    kind = schema["type"]
    fits = isinstance(value, expected[kind]) and (kind == "boolean" or not isinstance(value, bool))
    if not fits:
        return [f"{path}: {value!r} is not of type {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{path}: {value!r} is none of {schema['enum']}"]
    match kind:
        case "string":
            return [*_outside(schema, len(value), "Length", path), *_unlike(schema, value, path)]
        case "boolean":
            return []
        case "integer":
            low, high = schema.get("minimum", value), schema.get("maximum", value)
            return [] if low <= value <= high else [f"{path}: {value} is outside [{low}, {high}]"]
        case "array":
            return [*_outside(schema, len(value), "Items", path), *_in_list(schema, value, path)]
        case _:
            return [*_outside(schema, len(value), "Properties", path), *_in_object(schema, value, path)]


def _outside(schema: Schema, size: int, noun: str, path: str) -> list[str]:
    low, high = schema.get(f"min{noun}", 0), schema.get(f"max{noun}", size)
    return [] if low <= size <= high else [f"{path}: {noun} {size} is outside [{low}, {high}]"]


def _unlike(schema: Schema, value: str, path: str) -> list[str]:
    if re.search(re.sub(r"\$$", r"\\Z", schema.get("pattern", "")), value):
        return []
    return [f"{path}: {value!r} does not match {schema['pattern']}"]


def _in_list(schema: Schema, value: list[Any], path: str) -> list[str]:
    found = [text for i, item in enumerate(value) for text in violations(schema["items"], item, f"{path}[{i}]")]
    keys = schema.get("x-kubernetes-list-map-keys", [])
    owners = [[item.get(key) for key in keys] for item in value if keys and isinstance(item, dict)]
    if any(owner in owners[:i] for i, owner in enumerate(owners)):
        found.append(f"{path}: duplicate {keys}")
    return found


def _in_object(schema: Schema, value: dict[str, Any], path: str) -> list[str]:
    found = [f"{path}.{name}: required" for name in schema.get("required", []) if name not in value]
    for name, child in value.items():
        field = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
        found += violations(field, child, f"{path}.{name}") if field else [f"{path}.{name}: unknown field"]
    return found

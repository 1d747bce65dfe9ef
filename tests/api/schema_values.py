"""Hypothesis strategies from a schema: pydantic's own dialect and the structural one alike."""

import re
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]

UNIQUE_BY = {
    "EnvVar": "name",
    "Condition": "type",
    "ClassQuota": "accelerator",
    "ClassUsage": "accelerator",
    "ModelAllowance": "model",
    "Schedule": "name",
}
"""Models whose lists hold each key once; pydantic's schema cannot say so."""

TEXT_SIZE = 24
"""Longest random text; a text at its very bound is drawn apart, so that shrinking stays quick."""


def values(schema: Schema, definitions: dict[str, Schema] | None = None) -> st.SearchStrategy[Any]:
    """Return a strategy of values that the schema allows, bounds included."""
    definitions = definitions or schema.get("$defs", {})
    if "$ref" in schema:
        return values(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    if "anyOf" in schema:
        return st.one_of(*(values(branch, definitions) for branch in schema["anyOf"]))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            low, high = schema["minimum"], schema["maximum"]
            return st.one_of(st.integers(low, high), st.sampled_from([low, high]))
        case "string":
            return _strings(schema)
        case "array":
            return _lists(schema, definitions)
        case _:
            return _objects(schema, definitions) if "properties" in schema else _maps(schema, definitions)


def _strings(schema: Schema) -> st.SearchStrategy[str]:
    if schema.get("format") == "date-time":
        return st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC)).map(datetime.isoformat)  # noqa: DTZ001
    low, high = schema.get("minLength", 0), schema["maxLength"]
    if pattern := schema.get("pattern"):
        # Python's $ also stands before a final newline; Go's and Rust's do not.
        exact = re.sub(r"\$$", r"\\Z", pattern)
        return st.from_regex(re.compile(exact, re.ASCII)).filter(lambda text: low <= len(text) <= high)
    return st.one_of(
        st.text(min_size=low, max_size=max(low, min(high, TEXT_SIZE))),
        st.sampled_from(["é" * high, "x" * high, "x" * low]),
    )


def _lists(schema: Schema, definitions: dict[str, Schema]) -> st.SearchStrategy[list[Any]]:
    items = schema["items"]
    model = items.get("$ref", "").rsplit("/", 1)[-1]
    [key] = schema.get("x-kubernetes-list-map-keys", [UNIQUE_BY.get(model)])
    return st.lists(
        values(items, definitions),
        min_size=schema.get("minItems", 0),
        max_size=min(schema["maxItems"], 4),
        unique_by=(lambda item: item[key]) if key else None,
    )


def _objects(schema: Schema, definitions: dict[str, Schema]) -> st.SearchStrategy[dict[str, Any]]:
    fields = {name: values(field, definitions) for name, field in schema["properties"].items()}
    required = schema.get("required", [])
    return st.fixed_dictionaries(
        {name: fields[name] for name in required},
        optional={name: fields[name] for name in fields if name not in required},
    )


def _maps(schema: Schema, definitions: dict[str, Schema]) -> st.SearchStrategy[dict[str, Any]]:
    patterns = schema.get("patternProperties", {})
    # A structural schema bounds its keys in CEL, which is not read here: plain words pass every such rule.
    keys = {**schema.get("propertyNames", {"maxLength": 63, "pattern": "^[a-z]+$"}), "type": "string"}
    for pattern in patterns:
        keys["pattern"] = pattern
    value = next(iter(patterns.values())) if patterns else schema["additionalProperties"]
    return st.dictionaries(
        _strings(keys), values(value, definitions), min_size=schema.get("minProperties", 0), max_size=4
    )

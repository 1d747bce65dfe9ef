"""pydantic and the committed schema agree: what the one takes, the other takes."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from modelfleet.api.kinds import KINDS, Kind
from modelfleet.api.meta import Model
from tests.api.hostile import as_the_server_reads, attacks, field_path, pairs, random_attacks, spec_schema
from tests.api.schema_values import values
from tests.api.structural import Schema, committed, root_schema, violations

PARTS: dict[str, tuple[type[Model], Schema]] = {
    f"{kind.kind}.{part}": (model, root_schema(committed()[kind.kind])["properties"][part])
    for kind in KINDS
    for part, model in (("spec", kind.spec), ("status", kind.status))
    if model is not None
}

EXAMPLES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@pytest.mark.parametrize("part", PARTS)
@EXAMPLES
@given(data=st.data())
def test_what_pydantic_takes_the_schema_takes(part: str, data: st.DataObject) -> None:
    model, schema = PARTS[part]
    value = data.draw(values(model.model_json_schema()))
    try:
        parsed = model.model_validate(value)
    except ValidationError as error:
        # A rule between fields, which no strategy knows; anything else is a fault of the test.
        assert {fault["type"] for fault in error.errors()} == {"value_error"}, error
        assume(False)
    wire = parsed.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert violations(schema, wire) == []
    assert model.model_validate(wire) == parsed


@pytest.mark.parametrize("part", PARTS)
@EXAMPLES
@given(data=st.data())
def test_what_the_schema_takes_pydantic_takes(part: str, data: st.DataObject) -> None:
    model, schema = PARTS[part]
    value = data.draw(values(schema))
    assert violations(schema, value) == []
    try:
        model.model_validate(value)
    except ValidationError as error:
        # The rules between fields are CEL here; tests/cluster shows that the API server applies them.
        assert {fault["type"] for fault in error.errors()} == {"value_error"}, error


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_pydantic_and_the_schema_judge_every_attack_alike(kind: Kind) -> None:
    sent, faults = 0, []
    for hostile in (*attacks(kind), *pairs(kind), *random_attacks(kind)):
        sent += 1
        read = as_the_server_reads(spec_schema(kind), hostile.spec)
        by_schema = [text for text in violations(spec_schema(kind), read, "spec") if "duplicate" not in text]
        by_pydantic = field_errors(kind.spec, read)
        # Keys of a map are bounded in CEL, of which this reading of the schema knows nothing.
        by_pydantic = [error for error in by_pydantic if "[key]" not in error["loc"]]
        if bool(by_schema) != bool(by_pydantic):
            at = f"{field_path(hostile.path)} {hostile.attack}"
            faults.append(f"{at}: schema {by_schema[:1]}, pydantic {[e['msg'] for e in by_pydantic[:1]]}")
    listed = "\n".join(faults[:20])
    assert not faults, f"{sent} manifests, {len(faults)} judged differently:\n{listed}"
    assert sent >= 100


def field_errors(model: type[Model], value: Any) -> list[Any]:
    """Return what pydantic says of single fields; it reads as strictly as the API server does."""
    try:
        model.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        return [fault for fault in error.errors() if fault["type"] != "value_error"]
    return []


SMALLEST: dict[str, dict[str, Any]] = {
    "ModelDeployment.spec": {"model": {"name": "a/b"}, "runtime": "vllm", "accelerator": "h100"},
    "AcceleratorClass.spec": {"nodeSelector": {"gpu": "h100"}, "tolerations": [{}]},
    "InferenceRuntime.spec": {"engine": "vllm", "image": "vllm:v1", "env": [{"name": "A"}]},
    "Tenant.spec": {"namespaces": ["team-a"], "quotas": [{"accelerator": "h100", "nominalQuota": 8}]},
    "TenantView.spec": {
        "tenant": "team-a",
        "used": "h100 0/8",
        "waiting": 0,
        "reason": "WithinNominal",
        "message": "",
        "classes": [{"accelerator": "h100", "nominalQuota": 8, "minimums": 0, "largestNodeGpus": 8}],
    },
}


@pytest.mark.parametrize("part", SMALLEST)
def test_defaults_of_the_schema_are_those_of_pydantic(part: str) -> None:
    model, schema = PARTS[part]
    smallest = SMALLEST[part]
    assert model.model_validate(defaulted(schema, smallest)) == model.model_validate(smallest)
    # The other way: the server's defaults leave pydantic nothing to add but absent and empty values.
    dumped = model.model_validate(smallest).model_dump(mode="json", by_alias=True, exclude_none=True)
    assert without_empty_lists(dumped) == defaulted(schema, smallest)


def defaulted(schema: Schema, value: Any) -> Any:
    """Return the value as the API server stores it: parents first, then the fields of what they became."""
    if isinstance(value, list):
        return [defaulted(schema["items"], item) for item in value]
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    fields = schema["properties"]
    present = {name: field["default"] for name, field in fields.items() if "default" in field} | value
    return {name: defaulted(fields[name], child) for name, child in present.items()}


def without_empty_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_empty_lists(child) for name, child in value.items() if child != []}
    return [without_empty_lists(item) for item in value] if isinstance(value, list) else value

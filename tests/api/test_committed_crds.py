"""The committed manifests: what generation writes, with a bound and a description on everything."""

import difflib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from modelfleet.api.crd import HEADER, custom_resource_definition, to_yaml
from modelfleet.api.kinds import KINDS, Kind
from modelfleet.cli.main import app
from tests.api.structural import CRDS, Schema, committed, nodes, root_schema

FILES = {f"modelfleet.dev_{kind.plural}.yaml": kind for kind in KINDS}

BANNED = {
    "title",
    "$ref",
    "anyOf",
    "oneOf",
    "allOf",
    "not",
    "nullable",
    "const",
    "x-kubernetes-preserve-unknown-fields",
}


def below_spec_and_status() -> Iterator[tuple[str, Schema]]:
    for kind, manifest in committed().items():
        for path, schema in nodes(root_schema(manifest)):
            if path.startswith((".spec", ".status")):
                yield f"{kind}{path}", schema


def unbounded(schema: Schema) -> str:
    """Return what the node lacks, or nothing."""
    match schema:
        case {"type": "boolean"} | {"type": "string", "enum": _} | {"type": "string", "format": "date-time"}:
            return ""
        case {"type": "string"}:
            return "" if "maxLength" in schema else "maxLength"
        case {"type": "integer"}:
            return "" if {"minimum", "maximum", "format"} <= schema.keys() else "minimum, maximum or format"
        case {"type": "array"}:
            wanted = {"maxItems", "items", "x-kubernetes-list-type"}
            return "" if wanted <= schema.keys() else "maxItems, items or list type"
        case {"type": "object", "properties": _}:
            return "named fields only" if "additionalProperties" in schema else ""
        case {"type": "object", "additionalProperties": {"type": _}, "maxProperties": _}:
            rules = schema.get("x-kubernetes-validations", [])
            return "" if any("size(key) <=" in rule["rule"] for rule in rules) else "a rule that bounds its keys"
        case _:
            return "a type with a bounded form"


@pytest.mark.parametrize("directory", [CRDS, CRDS.parent / "charts/modelfleet/files/crds"], ids=["crds", "chart"])
def test_crds_are_what_generation_writes(directory: Path) -> None:
    assert {path.name for path in directory.iterdir()} == set(FILES)
    for name, kind in FILES.items():
        have, want = (directory / name).read_text(encoding="utf-8"), to_yaml(custom_resource_definition(kind))
        drift = "".join(difflib.unified_diff(have.splitlines(True), want.splitlines(True), "committed", "generated"))
        assert not drift, f"{name} is stale, run `make crds`:\n{drift}"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_the_yaml_says_what_the_value_says(kind: Kind) -> None:
    manifest = custom_resource_definition(kind)
    text = to_yaml(manifest)
    assert yaml.safe_load(text) == manifest
    assert text.startswith(HEADER)
    assert "modelfleet crds" in HEADER and HEADER.count("\n") == 1
    assert "&id" not in text


def test_command_writes_one_file_per_kind(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["crds", "--output", str(tmp_path / "new" / "crds")])
    assert result.exit_code == 0, result.output
    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "new" / "crds").iterdir()}
    assert written == {name: (CRDS / name).read_text(encoding="utf-8") for name in FILES}


def test_command_prints_all_kinds_as_one_stream() -> None:
    result = CliRunner().invoke(app, ["crds"])
    assert result.exit_code == 0, result.output
    assert list(yaml.safe_load_all(result.stdout)) == [custom_resource_definition(kind) for kind in KINDS]


def test_every_node_has_a_bound() -> None:
    found = list(below_spec_and_status())
    assert len(found) > 100, "the walker sees too little to be believed"
    assert not [f"{path}: lacks {lack}" for path, schema in found if (lack := unbounded(schema))]


def test_every_field_has_a_description() -> None:
    fields = [(path, schema) for path, schema in below_spec_and_status() if not path.endswith((".items", ".*"))]
    assert not [path for path, schema in fields if len(schema.get("description", "")) < 8]
    assert not [path for path, schema in fields if "\n" in schema["description"] or "  " in schema["description"]]


def test_nothing_is_said_that_a_structural_schema_cannot_say() -> None:
    assert not [path for path, schema in below_spec_and_status() if schema.keys() & BANNED]


def test_a_status_has_no_defaults() -> None:
    # A default there would claim an observation that nobody made.
    assert not [path for path, schema in below_spec_and_status() if ".status" in path and "default" in schema]


def test_an_object_default_is_filled_by_its_fields() -> None:
    defaults = {path: schema["default"] for path, schema in below_spec_and_status() if "default" in schema}
    objects = {path: value for path, value in defaults.items() if isinstance(value, dict)}
    assert set(objects) == {
        "ModelDeployment.spec.scaling",
        "ModelDeployment.spec.scaling.targets",
        "ModelDeployment.spec.scaling.behavior",
        "ModelDeployment.spec.scaling.behavior.scaleUp",
        "ModelDeployment.spec.scaling.behavior.scaleDown",
        "InferenceRuntime.spec.resources",
    }
    assert not [value for value in objects.values() if value != {}]


def test_what_is_unique_by_a_key_is_a_keyed_list() -> None:
    keyed = {
        path: schema["x-kubernetes-list-map-keys"]
        for path, schema in below_spec_and_status()
        if schema.get("x-kubernetes-list-type") == "map"
    }
    assert keyed == {
        "ModelDeployment.spec.scaling.schedules": ["name"],
        "ModelDeployment.status.conditions": ["type"],
        "AcceleratorClass.status.conditions": ["type"],
        "InferenceRuntime.spec.env": ["name"],
        "Tenant.spec.quotas": ["accelerator"],
        "Tenant.spec.tokensPerMinute.models": ["model"],
        "Tenant.status.classes": ["accelerator"],
        "Tenant.status.conditions": ["type"],
    }


def test_every_rule_names_its_field_and_a_remedy() -> None:
    rules = [
        (path, rule)
        for kind, manifest in committed().items()
        for path, schema in [(kind, root_schema(manifest)), *nodes(root_schema(manifest), kind)]
        for rule in schema.get("x-kubernetes-validations", [])
    ]
    assert len(rules) >= 10
    for path, rule in rules:
        assert rule["reason"] == "FieldValueInvalid", path
        assert len(rule["message"].split()) >= 5, path
        # A rule on a leaf is at its field already; one on the object must say which field is meant.
        assert path != "ModelDeployment" or rule.get("fieldPath"), rule

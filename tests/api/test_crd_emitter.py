"""The emitter, transform by transform: what each pydantic form becomes, and which forms are refused."""

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, StringConstraints

from modelfleet.api.conditions import Condition
from modelfleet.api.crd import SchemaFault, custom_resource_definition, structural_schema
from modelfleet.api.inferenceruntime import EnvVar
from modelfleet.api.kinds import ACCELERATOR_CLASS, MODEL_DEPLOYMENT, Rule
from modelfleet.api.meta import Model

Short = Annotated[str, StringConstraints(max_length=8)]
Small = Annotated[int, Field(ge=0, le=9)]


class Colour(StrEnum):
    """A colour."""

    RED = "Red"
    BLUE = "Blue"


class Inner(Model):
    """Words of the type."""

    size: Small = 3
    """How large."""
    label: Short | None = None
    """What it is called."""


class Required(Model):
    """Has a field that must be given."""

    size: Small
    """How large."""


class Forms(Model):
    """One field per form that is taken."""

    text: Annotated[str, StringConstraints(min_length=1, max_length=8, pattern="^a")]
    """A text
    over two lines."""
    when: datetime
    """A time."""
    small: Small = 3
    """A number."""
    positive: Annotated[int, Field(gt=0, lt=10)] = 1
    """A number with open bounds."""
    large: Annotated[int, Field(ge=0, le=2**40)] = 0
    """A number beyond 32 bits."""
    on: bool = True
    """A switch."""
    colour: Colour = Colour.RED
    """An enumeration."""
    choice: Literal["", "x"] = ""
    """Alternatives."""
    only: Literal["one"] = "one"
    """A constant."""
    maybe: Small | None = None
    """An optional number."""
    inner: Inner = Inner()
    """Words of the field."""
    unlike: Inner = Inner(size=5)
    """A default that differs from its fields' own."""
    plain: Inner = Inner()
    """Words of the type."""
    absent: Required | None = None
    """An optional object."""
    names: Annotated[tuple[Short, ...], Field(max_length=2)] = ()
    """An empty list by default."""
    pairs: Annotated[tuple[Required, ...], Field(max_length=2)] = (Required(size=1),)
    """A list with a default."""
    env: Annotated[tuple[EnvVar, ...], Field(max_length=2)] = ()
    """A list keyed by name."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=2)] = ()
    """A list keyed by type."""
    unique: Annotated[frozenset[Short], Field(max_length=2)] = frozenset()
    """A set."""
    labels: Annotated[dict[Annotated[str, StringConstraints(max_length=5)], Short], Field(max_length=2)]
    """A map."""
    patterned: Annotated[
        dict[Annotated[str, StringConstraints(min_length=2, max_length=5, pattern=r"^\d+$")], Small],
        Field(max_length=2),
    ]
    """A map whose keys have a pattern."""
    snake_case_name: bool = False
    """Named in camel case."""


INNER = {
    "type": "object",
    "properties": {
        "size": {
            "description": "How large.",
            "type": "integer",
            "default": 3,
            "minimum": 0,
            "maximum": 9,
            "format": "int32",
        },
        "label": {"description": "What it is called.", "type": "string", "maxLength": 8},
    },
}
SMALL = {"type": "integer", "minimum": 0, "maximum": 9, "format": "int32"}
REQUIRED = {
    "type": "object",
    "required": ["size"],
    "properties": {"size": {"description": "How large.", **SMALL}},
}

BECOMES: dict[str, dict[str, Any]] = {
    "text": {
        "description": "A text over two lines.",
        "type": "string",
        "minLength": 1,
        "maxLength": 8,
        "pattern": "^a",
    },
    "when": {"description": "A time.", "type": "string", "format": "date-time"},
    "small": {"description": "A number.", "default": 3, **SMALL},
    "positive": {
        "description": "A number with open bounds.",
        "type": "integer",
        "default": 1,
        "minimum": 1,
        "maximum": 9,
        "format": "int32",
    },
    "large": {
        "description": "A number beyond 32 bits.",
        "type": "integer",
        "default": 0,
        "minimum": 0,
        "maximum": 2**40,
        "format": "int64",
    },
    "on": {"description": "A switch.", "type": "boolean", "default": True},
    "colour": {"description": "An enumeration.", "type": "string", "default": "Red", "enum": ["Red", "Blue"]},
    "choice": {"description": "Alternatives.", "type": "string", "default": "", "enum": ["", "x"]},
    "only": {"description": "A constant.", "type": "string", "default": "one", "enum": ["one"]},
    "maybe": {"description": "An optional number.", **SMALL},
    "inner": {"description": "Words of the field.", "default": {}, **INNER},
    "unlike": {
        "description": "A default that differs from its fields' own.",
        "default": {"size": 5},
        **INNER,
    },
    "plain": {"description": "Words of the type.", "default": {}, **INNER},
    "absent": {"description": "An optional object.", **REQUIRED},
    "names": {
        "description": "An empty list by default.",
        "type": "array",
        "maxItems": 2,
        "x-kubernetes-list-type": "atomic",
        "items": {"type": "string", "maxLength": 8},
    },
    "pairs": {
        "description": "A list with a default.",
        "type": "array",
        "default": [{"size": 1}],
        "maxItems": 2,
        "x-kubernetes-list-type": "atomic",
        "items": {"description": "Has a field that must be given.", **REQUIRED},
    },
    "unique": {
        "description": "A set.",
        "type": "array",
        "maxItems": 2,
        "x-kubernetes-list-type": "set",
        "items": {"type": "string", "maxLength": 8},
    },
    "labels": {
        "description": "A map.",
        "type": "object",
        "maxProperties": 2,
        "x-kubernetes-map-type": "atomic",
        "additionalProperties": {"type": "string", "maxLength": 8},
        "x-kubernetes-validations": [
            {
                "rule": "self.all(key, size(key) <= 5)",
                "message": "every key must have maxLength 5",
                "reason": "FieldValueInvalid",
            }
        ],
    },
    "patterned": {
        "description": "A map whose keys have a pattern.",
        "type": "object",
        "maxProperties": 2,
        "x-kubernetes-map-type": "atomic",
        "additionalProperties": SMALL,
        "x-kubernetes-validations": [
            {
                "rule": r"self.all(key, size(key) >= 2 && size(key) <= 5 && key.matches(r'^\d+$'))",
                "message": r"every key must have minLength 2, maxLength 5, pattern ^\d+$",
                "reason": "FieldValueInvalid",
            }
        ],
    },
    "snakeCaseName": {"description": "Named in camel case.", "type": "boolean", "default": False},
}


def properties(model: type[Model], *, with_defaults: bool = True) -> dict[str, Any]:
    schema = structural_schema(model, path="spec", with_defaults=with_defaults)
    found: dict[str, Any] = schema["properties"]
    return found


@pytest.mark.parametrize("name", BECOMES)
def test_form_becomes(name: str) -> None:
    assert properties(Forms)[name] == BECOMES[name]


@pytest.mark.parametrize(("name", "keys"), [("env", ["name"]), ("conditions", ["type"])])
def test_list_of_keyed_items_is_a_map(name: str, keys: list[str]) -> None:
    schema = properties(Forms)[name]
    assert schema["x-kubernetes-list-type"] == "map"
    assert schema["x-kubernetes-list-map-keys"] == keys
    assert set(keys) <= set(schema["items"]["required"])


def test_every_form_is_in_a_table() -> None:
    assert set(properties(Forms)) == set(BECOMES) | {"env", "conditions"}


def test_without_defaults_none_is_written() -> None:
    assert "default" not in str(properties(Inner, with_defaults=False))


def test_required_is_what_has_no_default() -> None:
    schema = structural_schema(Forms, path="spec", with_defaults=True)
    assert schema["required"] == ["text", "when", "labels", "patterned"]


def model(annotation: Any, *, default: Any = ...) -> type[Model]:
    """Return a model with the one field `field`."""
    namespace: dict[str, Any] = {
        "__annotations__": {"field": annotation},
        "__module__": __name__,
        "field": Field(default, description="A field."),
    }
    return type("Sample", (Model,), namespace)


class Recursive(Model):
    """Contains itself."""

    child: "Recursive | None" = None
    """The next one."""


class Undocumented(Model):
    field: bool = True


class Open(Model, extra="allow"):
    """Takes what it does not know."""

    field: bool = True
    """A switch."""


REFUSED: dict[str, tuple[type[Model], str]] = {
    "string without a length": (model(str), "spec.field: string without maxLength"),
    "optional string without a length": (model(str | None), "spec.field: string without maxLength"),
    "pattern is no bound": (model(Annotated[str, StringConstraints(pattern="^a*$")]), "without maxLength"),
    "integer without bounds": (model(int), "spec.field: integer without minimum"),
    "integer without a maximum": (model(Annotated[int, Field(ge=0)]), "spec.field: integer without maximum"),
    "list without a length": (model(tuple[Small, ...]), "spec.field: array without maxItems"),
    "unbounded item": (model(Annotated[tuple[str, ...], Field(max_length=2)]), "spec.field.items: string without"),
    "map without a size": (model(dict[Short, Short]), "spec.field: object without maxProperties"),
    "map without a key length": (model(Annotated[dict[str, Short], Field(max_length=2)]), "spec.field"),
    "map with unbounded values": (
        model(Annotated[dict[Short, str], Field(max_length=2)]),
        "spec.field.*: string without maxLength",
    ),
    "map of anything": (model(Annotated[dict[Short, Any], Field(max_length=2)]), "spec.field"),
    "key pattern with a quote": (
        model(
            Annotated[dict[Annotated[str, StringConstraints(max_length=2, pattern="^'$")], Small], Field(max_length=2)]
        ),
        "spec.field.keys: a pattern with a quote",
    ),
    "anything": (model(Any), "spec.field: a value without a type"),
    "number": (model(Annotated[float, Field(ge=0, le=1)]), "spec.field: number"),
    "decimal": (model(Decimal), "spec.field: a union of 2 types"),
    "union": (model(Small | Short), "spec.field: a union of 2 types"),
    "fixed tuple": (model(tuple[Small, Small]), "prefixItems"),
    "multiple": (model(Annotated[int, Field(ge=0, le=9, multiple_of=3)]), "multipleOf"),
    "format that only pydantic knows": (model(Annotated[str, Field(json_schema_extra={"format": "uri"})]), "uri"),
    "recursion": (Recursive, "contains itself"),
    "no description": (Undocumented, "spec.field: no description"),
    "fields and a map": (Open, "not both"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_form_is_refused(name: str) -> None:
    refused, text = REFUSED[name]
    with pytest.raises(SchemaFault) as caught:
        structural_schema(refused, path="spec", with_defaults=True)
    assert text in str(caught.value)


def test_rule_at_a_field_that_does_not_exist_is_refused() -> None:
    kind = replace(MODEL_DEPLOYMENT, rules=(Rule(path="spec.scaling.minimum", rule="true", message="no"),))
    with pytest.raises(SchemaFault, match=r"spec\.scaling\.minimum: a rule names the field minimum"):
        custom_resource_definition(kind)


def test_names_bounded_like_the_api_server_bounds_them_need_no_rule() -> None:
    def root(max_name_length: int) -> dict[str, Any]:
        kind = replace(ACCELERATOR_CLASS, rules=(), max_name_length=max_name_length)
        schema = custom_resource_definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        return {"metadata": schema["properties"]["metadata"], "rules": schema.get("x-kubernetes-validations", [])}

    assert root(253) == {"metadata": {"type": "object"}, "rules": []}
    shorter = root(40)
    assert shorter["metadata"]["properties"]["name"]["maxLength"] == 40
    assert [rule["fieldPath"] for rule in shorter["rules"]] == [".metadata.name"]


def test_frame_says_what_the_kind_says() -> None:
    manifest = custom_resource_definition(MODEL_DEPLOYMENT)
    [version] = manifest["spec"]["versions"]
    assert manifest["metadata"] == {
        "name": "modeldeployments.modelfleet.dev",
        "labels": {"app.kubernetes.io/name": "modelfleet"},
        "annotations": {"helm.sh/resource-policy": "keep", "modelfleet.dev/generated-by": "modelfleet crds"},
    }
    assert manifest["spec"]["scope"] == "Namespaced"
    assert manifest["spec"]["names"] == {
        "kind": "ModelDeployment",
        "listKind": "ModelDeploymentList",
        "plural": "modeldeployments",
        "singular": "modeldeployment",
        "shortNames": ["mdep"],
        "categories": ["modelfleet"],
    }
    assert (version["name"], version["served"], version["storage"]) == ("v1alpha1", True, True)
    assert version["schema"]["openAPIV3Schema"]["required"] == ["spec"]
    assert version["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.scaling.minReplicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    }
    wide = [column["name"] for column in version["additionalPrinterColumns"] if column.get("priority") == 1]
    assert wide == ["Model", "Runtime", "Accelerator", "Bounds"]


def test_kind_without_a_status_has_no_subresource() -> None:
    kind = replace(MODEL_DEPLOYMENT, status=None, scale=None)
    [version] = custom_resource_definition(kind)["spec"]["versions"]
    assert "subresources" not in version
    assert "status" not in version["schema"]["openAPIV3Schema"]["properties"]


def test_generation_leaves_the_registry_alone() -> None:
    first = custom_resource_definition(MODEL_DEPLOYMENT)
    first["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"].clear()
    assert custom_resource_definition(MODEL_DEPLOYMENT)["spec"]["versions"][0]["schema"]["openAPIV3Schema"][
        "properties"
    ]

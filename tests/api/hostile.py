"""Hostile manifests made from the committed schemas: a field that is added tomorrow is attacked tomorrow."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from modelfleet.api.kinds import Kind
from tests.api.structural import Schema, committed, root_schema

SEED = 20260117
RANDOM_MANIFESTS = 120
HUGE_TEXT = "A" * 200_000
"""Below the API server's 3 MiB limit on a body, so that the schema and not the limit refuses."""

Path = tuple[str | int, ...]

FULL: dict[str, dict[str, Any]] = {
    "ModelDeployment": {
        "model": {"name": "org/model", "revision": "main", "cacheClaimName": "cache", "tokenSecretName": "token"},
        "runtime": "vllm",
        "accelerator": "h100",
        "gpusPerReplica": 2,
        "scaling": {
            "minReplicas": 2,
            "maxReplicas": 8,
            "targets": {"queuedRequests": 8, "outputTokensPerSecond": 900, "interTokenMilliseconds": 50},
            "latencyWeight": 30,
            "behavior": {
                direction: {
                    "stabilizationWindowSeconds": 60,
                    "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}],
                    "enabled": True,
                }
                for direction in ("scaleUp", "scaleDown")
            }
            | {"tolerancePercent": 10},
            "schedules": [
                {
                    "name": "day",
                    "timeZone": "Europe/Berlin",
                    "start": "0 8 * * mon-fri",
                    "end": "0 18 * * mon-fri",
                    "minReplicas": 2,
                    "maxReplicas": 8,
                }
            ],
            "mode": "Auto",
            "modeUntil": "2030-01-01T00:00:00Z",
        },
        "priority": 5,
        "drainSeconds": 60,
        "startTimeoutSeconds": 600,
    },
    "AcceleratorClass": {
        "resourceName": "nvidia.com/gpu",
        "nodeSelector": {"nvidia.com/gpu.product": "H100"},
        "tolerations": [{"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}],
        "usdPerGpuHour": "2.50",
    },
    "InferenceRuntime": {
        "engine": "vllm",
        "image": f"vllm/vllm-openai@sha256:{'0' * 64}",
        "command": ["serve"],
        "args": ["--model={model}"],
        "env": [{"name": "A", "value": "b"}],
        "port": 8000,
        "metricsPath": "/metrics",
        "healthPath": "/health",
        "cacheMountPath": "/models",
        "resources": {"cpu": "4", "memory": "16Gi", "sharedMemory": "8Gi"},
        "capacity": {"outputTokensPerSecondPerGpu": 900},
    },
    "Tenant": {
        "namespaces": ["team-a", "team-a-batch"],
        "cohort": "research",
        "quotas": [{"accelerator": "h100", "nominalQuota": 8, "borrowingLimit": 4, "lendingLimit": 6, "weight": 2}],
        "tokensPerMinute": {
            "input": 6_000_000,
            "output": 600_000,
            "total": 6_500_000,
            "models": [{"model": "org/model", "input": 900_000, "output": 60_000, "total": 950_000}],
        },
    },
    "TenantView": {
        "tenant": "team-a",
        "used": "h100 10/8",
        "waiting": 4,
        "reason": "Borrowing",
        "message": "2 GPUs of h100",
        "classes": [
            {
                "accelerator": "h100",
                "guaranteed": 8,
                "used": 10,
                "borrowed": 2,
                "lent": 0,
                "waiting": 4,
                "nominalQuota": 8,
                "limit": 12,
                "minimums": 6,
                "largestNodeGpus": 8,
            }
        ],
    },
}
"""Every field of every kind, so that a change can be made at each."""

WRONG_TYPES: dict[str, list[Any]] = {
    "string": [7, True, ["x"], {"x": "y"}],
    "integer": ["7", 1.5, True, [7], {"x": 7}],
    "boolean": ["true", 1, [True], {}],
    "array": ["x", 7, {"0": "x"}, True],
    "object": ["x", 7, ["x"], True],
}

HOSTILE_TEXTS: dict[str, str] = {
    "empty": "",
    "space": " ",
    "PromQL": '"} or up{job=~".+',
    "shell": "$(touch /tmp/x); rm -rf / #",
    "backticks": "`id`",
    "YAML": "a: b\n- !!python/object/apply:os.system [id]",
    "template": "{{ .Values.secret }}",
    "Python format": "{model.__class__}",
    "path upwards": "../../etc/passwd",
    "other namespace": "other/secret",
    "URL": "http://169.254.169.254/latest/meta-data",
    "final newline": "vllm\n",
    "carriage return": "vllm\r\nX-Injected: 1",
    "NUL": "vllm\x00",
    "escape": "\x1b[2J",
    "delete": "\x7f",
    "right to left": "\u202egpj.exe",
    "zero width": "vl\u200blm",
    "look-alike": "v\u217cm",
    "combining": "e\u0301" * 4,
    "astral": "\U0001f600",
    "byte order mark": "\ufeffvllm",
    "percent": "%00%2e%2e",
    "huge": HUGE_TEXT,
}


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """One manifest's spec, and the field it is about."""

    attack: str
    path: Path
    spec: Any


def field_path(path: Path) -> str:
    """Write a path as the API server does: spec.env[0].value."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def changed(spec: Any, path: Path, value: Any) -> Any:
    """Return a copy of the spec with the value at the path, which begins with `spec`."""
    if len(path) == 1:
        return value
    spec = copy.deepcopy(spec)
    at = spec
    for part in path[1:-1]:
        at = at[part]
    at[path[-1]] = value
    return spec


def without(spec: Any, path: Path) -> Any:
    """Return a copy of the spec without the field at the path."""
    spec = copy.deepcopy(spec)
    at = spec
    for part in path[1:-1]:
        at = at[part]
    del at[path[-1]]
    return spec


def filled_nodes(schema: Schema, value: Any, path: Path = ("spec",)) -> Iterator[tuple[Path, Schema, Any]]:
    """Yield every node that the value fills, with its path and schema."""
    yield path, schema, value
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from filled_nodes(schema["items"], item, (*path, i))
    if isinstance(value, dict):
        for name, child in value.items():
            field = schema.get("properties", {}).get(name) or schema["additionalProperties"]
            yield from filled_nodes(field, child, (*path, name))


def attacks(kind: Kind) -> Iterator[Hostile]:
    """Yield every systematic attack on the kind."""
    schema, full = spec_schema(kind), FULL[kind.kind]
    for path, node, value in filled_nodes(schema, full):
        for attack, hostile in (*wrong_values(node, value), ("null", None)):
            yield Hostile(attack=attack, path=path, spec=changed(full, path, hostile))
        for name in node.get("required", []):
            yield Hostile(attack="required field absent", path=(*path, name), spec=without(full, (*path, name)))
        if "maxProperties" in node:
            yield from map_attacks(path, node, full)


def wrong_values(node: Schema, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield values that a node of this schema should mostly not take, each with the attack's name."""
    for wrong in WRONG_TYPES[node["type"]]:
        yield f"{type(wrong).__name__} for {node['type']}", wrong
    match node["type"]:
        case "integer":
            low, high = node["minimum"], node["maximum"]
            yield from (
                ("minimum - 1", low - 1),
                ("minimum", low),
                ("maximum", high),
                ("maximum + 1", high + 1),
                ("beyond 31 bits", 2**31),
                ("beyond 63 bits", 2**63),
                ("beyond 64 bits", -(2**64) - 1),
                ("beyond double precision", 10**40),
            )
        case "string" if "enum" in node:
            for wrong in (f"{value}x", value.upper() if value.upper() != value else value.lower(), "", HUGE_TEXT):
                yield "not of the enumeration", wrong
        case "string":
            yield from HOSTILE_TEXTS.items()
            for size in (node["maxLength"], node["maxLength"] + 1):
                yield f"length {size}", "a" * size
                yield f"length {size} in code points", "\u00e9" * size
        case "array":
            for size in (0, node["maxItems"], node["maxItems"] + 1, 5_000):
                yield f"{size} items", list_of(node, value[0], size)
            yield "items of null", [None]


def list_of(node: Schema, item: Any, size: int) -> list[Any]:
    """Return so many items, distinct where the list is keyed."""
    keys = node.get("x-kubernetes-list-map-keys", [])
    return [{**item, **{key: f"{item[key]}{i}" for key in keys}} if keys else item for i in range(size)]


def map_attacks(path: Path, node: Schema, full: Any) -> Iterator[Hostile]:
    for size in (0, node["maxProperties"], node["maxProperties"] + 1, 5_000):
        spec = changed(full, path, {f"k{i}": "v" for i in range(size)})
        yield Hostile(attack=f"{size} entries", path=path, spec=spec)
    keys = {**HOSTILE_TEXTS, "name of 63": "a" * 63, "name of 64": "a" * 64, "two slashes": "a/b/c", "upper": "A.b/c"}
    for attack, key in keys.items():
        yield Hostile(attack=f"key: {attack}", path=path, spec=changed(full, path, {key: "v"}))


def pairs(kind: Kind) -> Iterator[Hostile]:
    """Yield values that are fine alone and wrong together."""
    full = FULL[kind.kind]

    def pair(attack: str, path: Path, spec: Any) -> Hostile:
        return Hostile(attack=attack, path=path, spec=spec)

    match kind.kind:
        case "ModelDeployment":
            floor: Path = ("spec", "scaling", "minReplicas")
            for low, high in ((9, 8), (1000, 1), (2, 1), (1000, 999), (8, 8)):
                scaling = {**full["scaling"], "minReplicas": low, "maxReplicas": high}
                yield pair(f"min {low} max {high}", floor, changed(full, ("spec", "scaling"), scaling))
            yield pair("min above the default max", floor, changed(full, ("spec", "scaling"), {"minReplicas": 5}))
        case "AcceleratorClass":
            tolerations: Path = ("spec", "tolerations")
            for name, toleration in (
                ("value", {"key": "gpu", "value": "x"}),
                ("value", {"value": "x"}),
                ("key", {"operator": "Equal"}),
                ("key", {"operator": "Equal", "value": "x"}),
            ):
                yield pair(str(toleration), (*tolerations, 0, name), changed(full, tolerations, [toleration]))
            resource = changed(full, ("spec", "resourceName"), "requests.nvidia.com/gpu")
            yield pair("resource of a quota", ("spec", "resourceName"), resource)
        case "Tenant":
            namespaces: Path = ("spec", "namespaces")
            yield pair("namespace twice", namespaces, changed(full, namespaces, ["team-a", "team-b", "team-a"]))
            quota = full["quotas"][0]
            lending: Path = ("spec", "quotas", 0, "lendingLimit")
            for nominal, lent in ((8, 9), (0, 1), (0, 0), (1_000_000, 1_000_000)):
                quotas = [{**quota, "nominalQuota": nominal, "lendingLimit": lent}]
                yield pair(f"nominal {nominal} lending {lent}", lending, changed(full, ("spec", "quotas"), quotas))
            yield pair("class twice", ("spec", "quotas", 1), changed(full, ("spec", "quotas"), [quota, quota]))
            models: Path = ("spec", "tokensPerMinute", "models")
            one = full["tokensPerMinute"]["models"][0]
            yield pair("model twice", (*models, 1), changed(full, models, [one, one]))
            yield pair("model without a limit", (*models, 0), changed(full, models, [{"model": "org/model"}]))
        case _:
            for image in ("vllm:latest", "a/b/c:latest", "local:5000/vllm:latest"):
                yield pair(image, ("spec", "image"), changed(full, ("spec", "image"), image))
            twice = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]
            yield pair("name twice", ("spec", "env", 1), changed(full, ("spec", "env"), twice))
            for name in ("command", "args"):
                yield pair("placeholder", ("spec", name, 0), changed(full, ("spec", name), ["{secret}"]))


def random_attacks(kind: Kind) -> Iterator[Hostile]:
    """Yield manifests with two to four changes at once, the same in every run."""
    dice = random.Random(f"{SEED} {kind.kind}")
    schema, full = spec_schema(kind), FULL[kind.kind]
    pool = [
        *(wrong for wrongs in WRONG_TYPES.values() for wrong in wrongs),
        *HOSTILE_TEXTS.values(),
        *(None, 0, -1, 1, 10**12, 0.5, [], {}, [None], {"a": None}, [[]], {"a": {"b": []}}),
    ]
    for _ in range(RANDOM_MANIFESTS):
        spec = copy.deepcopy(full)
        for _ in range(dice.randint(2, 4)):
            below = [path for path, _, _ in filled_nodes(schema, full) if len(path) > 1 and reaches(spec, path)]
            spec = changed(spec, dice.choice(below), copy.deepcopy(dice.choice(pool)))
        yield Hostile(attack="random", path=("spec",), spec=spec)


def reaches(spec: Any, path: Path) -> bool:
    at = spec
    for part in path[1:]:
        if isinstance(part, int) and not (isinstance(at, list) and part < len(at)):
            return False
        if isinstance(part, str) and not (isinstance(at, dict) and part in at):
            return False
        at = at[part]
    return True


@cache
def spec_schema(kind: Kind) -> Schema:
    schema: Schema = root_schema(committed()[kind.kind])["properties"]["spec"]
    return schema


def as_the_server_reads(schema: Schema, value: Any) -> Any:
    """Return the value without what the API server takes away before it judges: nulls, unknown fields."""
    if isinstance(value, list) and schema["type"] == "array":
        return [as_the_server_reads(schema["items"], item) for item in value]
    if isinstance(value, dict) and schema["type"] == "object":
        values = schema.get("additionalProperties")
        fields: dict[str, Any] = schema.get("properties") or dict.fromkeys(value, values)
        known = {name: child for name, child in value.items() if name in fields and child is not None}
        return {name: as_the_server_reads(fields[name], child) for name, child in known.items()}
    return value

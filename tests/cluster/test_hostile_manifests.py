"""Hostile manifests against a real API server: what is invalid is refused by name, what is taken is understood.

Whether a manifest is invalid is judged by an independent reading of the schema and by pydantic; the server must
judge alike.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from modelfleet.api.kinds import KINDS, Kind
from modelfleet.api.meta import API_VERSION
from sandbox.cluster import Sandbox, SandboxError
from tests.api.hostile import (
    FULL,
    RANDOM_MANIFESTS,
    Hostile,
    Path,
    as_the_server_reads,
    attacks,
    changed,
    field_path,
    filled_nodes,
    pairs,
    random_attacks,
    spec_schema,
)
from tests.api.schema_values import values
from tests.api.structural import violations
from tests.cluster.test_crds import install_crds

pytestmark = pytest.mark.xdist_group("crds")

FORBIDDEN_FIELDS = (
    "podTemplate",
    "podSpecPatch",
    "template",
    "image",
    "serviceAccountName",
    "namespace",
    "url",
    "query",
    "tenant",
    "hostNetwork",
    "securityContext",
    "volumes",
    "__proto__",
    "model_config",
)
"""What no kind lets a team say (where the schema has no field of that name)."""

DISAGREES = {
    "spec.scaling.maxReplicas": "spec.scaling.minReplicas",
    "spec.scaling.schedules[0].minReplicas": "spec.scaling.schedules",
    "spec.scaling.schedules[0].maxReplicas": "spec.scaling.schedules",
    "spec.scaling.schedules[0].start": "spec.scaling.schedules[0].end",
    "spec.quotas[0].nominalQuota": "spec.quotas[0].lendingLimit",
    # A null is taken away, and then Exists, the default, has a value beside it ...
    "spec.tolerations[0].operator": "spec.tolerations[0].value",
    # ... or the map is empty.
    "spec.nodeSelector.nvidia.com/gpu.product": "spec.nodeSelector",
}
"""The field that is blamed when a change makes another one wrong."""


ONLY_THE_OPERATOR_KNOWS = {"timeZone", "start", "end", "modeUntil"}
"""Fields of the right shape that may name no zone, no time or no day: the API server has no calendar."""


def told_by_the_operator(fault: Any) -> bool:
    """Whether a fault of pydantic's is one that the API server cannot find."""
    return fault["type"] == "value_error" and bool(fault["loc"]) and fault["loc"][-1] in ONLY_THE_OPERATOR_KNOWS


def faults_expected(kind: Kind, spec: Any) -> list[str]:
    """Return why the spec is invalid, from the schema as read here and from pydantic."""
    schema = spec_schema(kind)
    read = as_the_server_reads(schema, spec)
    found = violations(schema, read, "spec")
    try:
        kind.spec.model_validate(read)
    except ValidationError as error:
        found += [str(fault["msg"]) for fault in error.errors() if not told_by_the_operator(fault)]
    return found


@dataclass(frozen=True)
class Answer:
    """What the API server said."""

    code: int
    body: dict[str, Any]

    @property
    def message(self) -> str:
        return str(self.body.get("message", ""))

    @property
    def causes(self) -> list[str]:
        """The fields it blames."""
        return [cause.get("field", "") for cause in self.body.get("details", {}).get("causes", [])]


class Server:
    """One kept-open connection: 3 ms a manifest, against 150 ms for kubectl."""

    def __init__(self, sandbox: Sandbox) -> None:
        url = urlsplit(sandbox.server)
        trust = ssl.create_default_context(cafile=str(sandbox.directory / "pki" / "ca.crt"))
        self._connection = http.client.HTTPSConnection(url.hostname or "", url.port, context=trust, timeout=30)
        self._token = sandbox.token

    def send(self, method: str, path: str, body: bytes, kind: str = "application/json") -> Answer:
        self._connection.request(method, path, body, {"Authorization": f"Bearer {self._token}", "Content-Type": kind})
        response = self._connection.getresponse()
        text = response.read()
        try:
            parsed = json.loads(text)
        except json.JSONDecodeError:
            parsed = {"message": text.decode(errors="replace")}
        return Answer(response.status, parsed)

    def create(self, kind: Kind, spec: Any, *, validation: str = "Ignore") -> Answer:
        return self.create_raw(kind, json.dumps(manifest(kind, spec)).encode(), validation=validation)

    def create_raw(self, kind: Kind, body: bytes, *, validation: str = "Ignore") -> Answer:
        return self.send("POST", f"{collection(kind)}?dryRun=All&fieldValidation={validation}", body)

    def close(self) -> None:
        self._connection.close()


def collection(kind: Kind) -> str:
    scope = "namespaces/default/" if kind.scope == "Namespaced" else ""
    return f"/apis/{API_VERSION}/{scope}{kind.plural}"


def manifest(kind: Kind, spec: Any, name: str = "hostile") -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind.kind, "metadata": {"name": name}, "spec": spec}


@pytest.fixture(scope="module")
def server(sandbox: Sandbox) -> Iterator[Server]:
    install_crds(sandbox)
    connection = Server(sandbox)
    yield connection
    connection.close()


each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)


class Tally:
    """Counts what was sent, and collects what went wrong, so that one run shows every fault."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    def judge(self, kind: Kind, hostile: Hostile, answer: Answer, *, blame: bool) -> None:
        """Hold the server's answer against what was expected.

        Args:
            kind: The kind that was sent.
            hostile: What was sent.
            answer: What came back.
            blame: Whether a refusal must name the attacked field itself.
        """
        at = f"{field_path(hostile.path)} {hostile.attack}"
        expected = faults_expected(kind, hostile.spec)
        self.counts["sent"] += 1
        if answer.code == 201:
            self.counts["taken"] += 1
            if expected:
                self.faults.append(f"{at}: taken, but {expected[:2]}")
            self._understood(kind, at, answer.body["spec"])
            return
        self.counts["refused"] += 1
        if answer.code != 422:
            self.faults.append(f"{at}: HTTP {answer.code} {answer.message[:200]}")
        elif not expected:
            self.faults.append(f"{at}: refused without need: {answer.message[:300]}")
        elif blame and not any(names(cause, hostile.path) for cause in answer.causes):
            self.faults.append(f"{at}: blames {answer.causes} only: {answer.message[:300]}")
        elif not all(cause in answer.message for cause in answer.causes):
            self.faults.append(f"{at}: the message has not all of {answer.causes}")

    def _understood(self, kind: Kind, at: str, stored: Any) -> None:
        if alien := violations(spec_schema(kind), stored, "spec"):
            self.faults.append(f"{at}: stored outside the schema: {alien[:2]}")
        try:
            kind.spec.model_validate(stored)
        except ValidationError as error:
            if not all(told_by_the_operator(fault) for fault in error.errors()):
                self.faults.append(f"{at}: taken, and pydantic fails: {error}")

    def check(self, *, at_least: int) -> None:
        counts = ", ".join(f"{number} {what}" for what, number in sorted(self.counts.items()))
        listed = "\n".join(self.faults[:20])
        assert not self.faults, f"{counts}; {len(self.faults)} faults:\n{listed}"
        assert self.counts["sent"] >= at_least, f"{counts}; too few to be believed"


def names(cause: str, path: Path) -> bool:
    """Whether the blamed field is the attacked one, an element of it, or the one it no longer agrees with."""
    attacked = field_path(path)
    return cause in (attacked, DISAGREES.get(attacked)) or cause.startswith((f"{attacked}[", f"{attacked}."))


@each_kind
def test_the_full_manifest_fills_every_field_and_is_taken(server: Server, kind: Kind) -> None:
    full = FULL[kind.kind]
    for path, node, value in filled_nodes(spec_schema(kind), full):
        if "properties" in node:
            assert set(value) == set(node["properties"]), field_path(path)
    answer = server.create(kind, full, validation="Strict")
    assert answer.code == 201, answer.message
    assert answer.body["spec"] == full


@each_kind
def test_systematic_attacks(server: Server, kind: Kind) -> None:
    tally = Tally()
    for hostile in (*attacks(kind), *pairs(kind)):
        tally.judge(kind, hostile, server.create(kind, hostile.spec), blame=True)
    tally.check(at_least=100)
    assert tally.counts["refused"] > tally.counts["taken"] > 0, tally.counts


@each_kind
def test_random_attacks(server: Server, kind: Kind) -> None:
    tally = Tally()
    for hostile in random_attacks(kind):
        tally.judge(kind, hostile, server.create(kind, hostile.spec), blame=False)
    tally.check(at_least=RANDOM_MANIFESTS)


@each_kind
def test_integers_written_as_fractions_are_whole_or_refused(server: Server, kind: Kind) -> None:
    # 8.0 is an integer to JSON schema. The server's rules and its scale subresource read integers alone and refuse it.
    refused = []
    for path, node, value in filled_nodes(spec_schema(kind), FULL[kind.kind]):
        if node["type"] != "integer":
            continue
        answer = server.create(kind, changed(FULL[kind.kind], path, float(value)))
        if answer.code == 201:
            assert kind.spec.model_validate(answer.body["spec"]) == kind.spec.model_validate(FULL[kind.kind])
        else:
            refused.append(field_path(path))
            assert answer.code == 422 and "float64" in answer.message, answer.message
    wanted = {
        "ModelDeployment": [
            "spec.scaling.minReplicas",
            "spec.scaling.maxReplicas",
            "spec.scaling.schedules[0].minReplicas",
            "spec.scaling.schedules[0].maxReplicas",
        ],
        "Tenant": ["spec.quotas[0].nominalQuota", "spec.quotas[0].lendingLimit"],
    }
    assert refused == wanted.get(kind.kind, [])


@each_kind
def test_unknown_fields_are_refused_by_strict_clients_and_else_pruned(server: Server, kind: Kind) -> None:
    counts: Counter[str] = Counter()
    full = FULL[kind.kind]
    for path, node, value in filled_nodes(spec_schema(kind), full):
        for name in FORBIDDEN_FIELDS if "properties" in node else ():
            if name in node["properties"]:
                continue
            field = field_path((*path, name))
            spec = changed(full, path, {**value, name: {"containers": [{"image": "evil"}]}})
            strict = server.create(kind, spec, validation="Strict")
            assert strict.code == 400 and f'unknown field "{field}"' in strict.message, (field, strict.message)
            warned = server.create(kind, spec, validation="Warn")
            # Equal to what was sent without the field: it is gone, and nothing else is.
            assert warned.code == 201 and warned.body["spec"] == full, (field, warned.message)
            counts["pruned"] += 1
    assert counts["pruned"] >= len(FORBIDDEN_FIELDS) - 1, counts


@each_kind
def test_fields_beside_spec(server: Server, kind: Kind) -> None:
    full = FULL[kind.kind]
    for name, value in (("data", {"a": "b"}), ("podTemplate", {}), ("status", {"replicas": 9, "capacityGpus": 9})):
        body = {**manifest(kind, full), name: value}
        taken = server.create_raw(kind, json.dumps(body).encode())
        # A status cannot be claimed at creation either.
        assert taken.code == 201 and name not in taken.body, (name, taken.body)


def test_kubectl_refuses_an_image_on_a_model_deployment(sandbox: Sandbox, server: Server) -> None:
    text = json.dumps(manifest(KINDS[0], {**FULL["ModelDeployment"], "image": "evil:v1"}))
    with pytest.raises(SandboxError, match=r'unknown field "spec\.image"'):
        sandbox.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", input=text)


RAW: dict[str, tuple[str, int, str]] = {
    "spec absent": ('{"apiVersion":"$V","kind":"$K","metadata":{"name":"x"}}', 422, "spec: Required value"),
    "spec null": ('{"apiVersion":"$V","kind":"$K","metadata":{"name":"x"},"spec":null}', 422, "spec"),
    "spec a list": ('{"apiVersion":"$V","kind":"$K","metadata":{"name":"x"},"spec":[]}', 422, "spec"),
    "NaN": ('{"apiVersion":"$V","kind":"$K","metadata":{"name":"x"},"spec":{"priority":NaN}}', 400, ""),
    "Infinity": ('{"apiVersion":"$V","kind":"$K","metadata":{"name":"x"},"spec":{"port":Infinity}}', 400, ""),
    "minus Infinity": ('{"apiVersion":"$V","kind":"$K","metadata":{"name":"x"},"spec":{"port":-Infinity}}', 400, ""),
    "number beyond a double": (
        '{"apiVersion":"$V","kind":"$K","metadata":{"name":"x"},"spec":{"port":1e999}}',
        400,
        "",
    ),
    "hexadecimal": ('{"apiVersion":"$V","kind":"$K","metadata":{"name":"x"},"spec":{"port":0x10}}', 400, ""),
    "comment": ('{"apiVersion":"$V","kind":"$K","metadata":{"name":"x"},"spec":{/*x*/}}', 400, ""),
    "cut short": ('{"apiVersion":"$V","kind":"$K","metadata":{"name":"x"},"spec":{"port":1', 400, ""),
    "two documents": ('{"apiVersion":"$V","kind":"$K","metadata":{"name":"x"},"spec":{}}{}', 400, ""),
    "a list": ("[]", 400, ""),
    "a string": ('"x"', 400, ""),
    "nothing": ("", 400, ""),
    "null": ("null", 400, ""),
    "too deep": ("[" * 20_000, 400, ""),
    "another kind": ('{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{}}', 400, ""),
    "another version": ('{"apiVersion":"modelfleet.dev/v1","kind":"$K","metadata":{"name":"x"},"spec":{}}', 400, ""),
    "name a number": ('{"apiVersion":"$V","kind":"$K","metadata":{"name":7},"spec":{}}', 400, ""),
    "metadata a list": ('{"apiVersion":"$V","kind":"$K","metadata":[],"spec":{}}', 400, ""),
}


@each_kind
def test_bodies_that_are_hardly_manifests(server: Server, kind: Kind) -> None:
    faults = []
    for attack, (text, code, words) in RAW.items():
        answer = server.create_raw(kind, text.replace("$V", API_VERSION).replace("$K", kind.kind).encode())
        if answer.code != code or words not in answer.message:
            faults.append(f"{attack}: HTTP {answer.code} {answer.message[:200]}")
    bad_utf8 = json.dumps(manifest(kind, FULL[kind.kind])).encode().replace(b'"hostile"', b'"ho\xff\xfe"')
    if (answer := server.create_raw(kind, bad_utf8)).code not in (400, 422):
        faults.append(f"bad UTF-8: HTTP {answer.code}")
    listed = "\n".join(faults)
    assert not faults, f"{len(RAW) + 1} bodies, {len(faults)} faults:\n{listed}"


@each_kind
def test_duplicate_keys(server: Server, kind: Kind) -> None:
    tally = Tally()
    full = FULL[kind.kind]
    for name, value in full.items():
        once = f'"{name}": {json.dumps(value)}'
        for first in ('"evil"', "null", "{}"):
            text = json.dumps(manifest(kind, full)).replace(once, f'"{name}": {first}, {once}')
            strict = server.create_raw(kind, text.encode(), validation="Strict")
            assert strict.code == 400 and f'duplicate field "spec.{name}"' in strict.message, strict.message
            # A client that does not ask for strictness gets the last one.
            last = server.create_raw(kind, text.encode())
            assert last.body["spec"] == full, (name, last.message)
            tally.judge(kind, Hostile(attack="twice", path=("spec", name), spec=full), last, blame=False)
    tally.check(at_least=3 * len(full))


NAMES = {
    "dots": "a.b",
    "upper": "Ab",
    "underscore": "a_b",
    "leading hyphen": "-a",
    "trailing hyphen": "a-",
    "64": "a" * 64,
    "254": "a" * 254,
    "slash": "a/b",
    "up": "..",
    "percent": "%2e",
    "newline": "a\n",
    "unicode": "é",
    "NUL": "a\x00",
    "PromQL": 'a"}',
}


@each_kind
def test_names(server: Server, kind: Kind) -> None:
    for attack, name in NAMES.items():
        answer = server.create_raw(kind, json.dumps(manifest(kind, FULL[kind.kind], name)).encode())
        assert answer.code == 422 and "metadata.name" in answer.causes, (attack, answer.code, answer.message)
    for name in ("a", "a" * 63, "a-1"):
        answer = server.create_raw(kind, json.dumps(manifest(kind, FULL[kind.kind], name)).encode())
        assert answer.code == 201, (name, answer.message)


VALID = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@each_kind
@VALID
@given(data=st.data())
def test_every_spec_that_pydantic_takes_is_taken(server: Server, kind: Kind, data: st.DataObject) -> None:
    parsed = drawn(kind.spec.model_json_schema(), kind.spec, data)
    wire = parsed.model_dump(mode="json", by_alias=True, exclude_none=True)
    answer = server.create(kind, wire, validation="Strict")
    assert answer.code == 201, answer.message
    assert kind.spec.model_validate(answer.body["spec"]) == parsed
    if kind.kind == "AcceleratorClass":
        assert_a_pod_can_use(server, answer.body["spec"])


def drawn(schema: dict[str, Any], model: type[Any], data: st.DataObject) -> Any:
    """Return a parsed value, of those whose fields also agree with one another."""
    try:
        return model.model_validate(data.draw(values(schema)))
    except ValidationError:
        assume(False)


def assert_a_pod_can_use(server: Server, accelerator: dict[str, Any]) -> None:
    """A class that is taken must not make every pod of it fail."""
    pod = {
        "metadata": {"name": "replica"},
        "spec": {
            "nodeSelector": accelerator["nodeSelector"],
            "tolerations": accelerator.get("tolerations", []),
            "automountServiceAccountToken": False,
            "containers": [
                {"name": "engine", "image": "engine", "resources": {"limits": {accelerator["resourceName"]: "1"}}}
            ],
        },
    }
    answer = server.send("POST", "/api/v1/namespaces/default/pods?dryRun=All", json.dumps(pod).encode())
    assert answer.code == 201, answer.message


@pytest.fixture(scope="module")
def stored(server: Server) -> dict[str, str]:
    """The path of one stored object of each kind."""
    for kind in KINDS:
        body = json.dumps(manifest(kind, FULL[kind.kind], "stored")).encode()
        assert server.send("POST", collection(kind), body).code in (201, 409)
    return {kind.kind: f"{collection(kind)}/stored" for kind in KINDS}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.status], ids=lambda kind: kind.kind)
@VALID
@given(data=st.data())
def test_every_status_that_pydantic_takes_can_be_written(
    server: Server, stored: dict[str, str], kind: Kind, data: st.DataObject
) -> None:
    assert kind.status is not None
    parsed = drawn(kind.status.model_json_schema(), kind.status, data)
    wire = parsed.model_dump(mode="json", by_alias=True, exclude_none=True)
    path = f"{stored[kind.kind]}/status?dryRun=All&fieldValidation=Strict"
    answer = server.send("PATCH", path, json.dumps({"status": wire}).encode(), "application/merge-patch+json")
    assert answer.code == 200, answer.message
    assert kind.status.model_validate(answer.body["status"]) == parsed


def test_there_are_enough() -> None:
    counts = {kind.kind: len([*attacks(kind), *pairs(kind)]) + RANDOM_MANIFESTS for kind in KINDS}
    assert sum(counts.values()) >= 300, f"{sum(counts.values())} hostile manifests: {counts}"
    assert min(counts.values()) >= 100, counts

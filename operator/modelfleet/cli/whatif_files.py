"""The manifests that `modelfleet whatif` takes: Tenants and ModelDeployments as they would be applied."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from modelfleet.adapters.kubernetes import Json
from modelfleet.api.meta import API_VERSION, Key, Model, Name
from modelfleet.api.modeldeployment import ModelDeploymentSpec
from modelfleet.api.tenant import TenantSpec
from modelfleet.cli.bad_input import BadInput
from modelfleet.shell.mirror import Mirror
from modelfleet.shell.records import DeploymentRecord

STDIN = "-"
_SPECS: Mapping[str, type[Model]] = {"Tenant": TenantSpec, "ModelDeployment": ModelDeploymentSpec}
_NAME: TypeAdapter[str] = TypeAdapter(Name)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object of a file.

    Attributes:
        key: Its name; the namespace of a Tenant is empty.
        spec: As it was written; it has been checked.
    """

    kind: str
    key: Key
    spec: Json


def read_manifests(files: Iterable[str]) -> tuple[Manifest, ...]:
    """Read every document of every file; `-` is standard input.

    Raises:
        BadInput: If one is none of the operator's; the text names the file, the document, the field and the remedy.
    """
    found: dict[tuple[str, Key], str] = {}
    manifests = []
    for file in files:
        name = "standard input" if file == STDIN else file
        for at, item in _documents(name, _text(file)):
            manifest = _manifest(at, item)
            before = found.setdefault((manifest.kind, manifest.key), at)
            if before != at:
                raise BadInput("-f", f"{at}: {manifest.kind} {_named(manifest.key)} is in {before} too; drop one")
            manifests.append(manifest)
    return tuple(manifests)


def change(mirror: Mirror, manifests: Iterable[Manifest], deleted: Iterable[str], *, now: float) -> None:
    """Let a mirror hear that Tenants are deleted and manifests applied; who is new is as young as can be.

    Raises:
        BadInput: If a Tenant that is to be deleted is none, or applied too.
    """
    manifests = tuple(manifests)
    applied = {manifest.key.name for manifest in manifests if manifest.kind == "Tenant"}
    for name in deleted:
        if name in applied:
            raise BadInput("--delete", f"Tenant {name} is in a file too; drop one")
        if name not in mirror.tenants:
            raise BadInput("--delete", f"there is no Tenant {name}; there are: {', '.join(sorted(mirror.tenants))}")
        mirror.tenant("DELETED", {"metadata": {"name": name, "uid": mirror.tenants[name].uid}})
    for manifest in manifests:
        if manifest.kind == "Tenant":
            tenant = mirror.tenants.get(manifest.key.name)
            known = None if tenant is None else (tenant.uid, tenant.version, tenant.generation)
            created = now if tenant is None else tenant.created_at
            mirror.tenant("MODIFIED", _item(manifest, known, created, {}))
        else:
            record = mirror.deployments.get(manifest.key)
            _check_size(manifest, record)
            known = None if record is None else (record.uid, record.version, record.generation)
            status = {} if record is None else yaml.safe_load(record.status_json)
            mirror.model_deployment("MODIFIED", _item(manifest, known, now, status))


def _check_size(manifest: Manifest, record: DeploymentRecord | None) -> None:
    if record is None or not isinstance(record.spec, ModelDeploymentSpec):
        return
    new = ModelDeploymentSpec.model_validate(manifest.spec)
    for field, before, after in (
        ("accelerator", record.spec.accelerator, new.accelerator),
        ("gpusPerReplica", record.spec.gpus_per_replica, new.gpus_per_replica),
    ):
        if before != after:
            raise BadInput(
                "-f",
                f"ModelDeployment {manifest.key}: spec.{field}: a roll-out from {before} to {after} is not played; "
                "give it another name",
            )


def _item(manifest: Manifest, known: tuple[str, int, int] | None, created_at: float, status: Json) -> Json:
    uid, version, generation = known or (f"what-if/{manifest.kind}/{_named(manifest.key)}", 0, 0)
    return {
        "metadata": {
            "name": manifest.key.name,
            "namespace": manifest.key.namespace,
            "uid": uid,
            "resourceVersion": str(version + 1),
            "generation": generation + 1,
            "creationTimestamp": datetime.fromtimestamp(created_at, UTC).isoformat(),
        },
        "spec": manifest.spec,
        "status": status,
    }


def _text(file: str) -> str:
    if file == STDIN:
        return sys.stdin.read()
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput("-f", f"cannot read {file}: {error.strerror}; give a readable file") from error
    except UnicodeDecodeError as error:
        raise BadInput("-f", f"{file} is no text: {error}; give YAML or JSON") from error


def _documents(name: str, text: str) -> Iterator[tuple[str, Any]]:
    """Yield each object, with where it is for people; a List yields its items."""
    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        raise BadInput("-f", f"{name} is no YAML: {error}") from error
    for number, document in enumerate(documents, 1):
        at = f"{name}, document {number}"
        if document is None:
            continue
        if isinstance(document, dict) and document.get("kind") == "List":
            for index, item in enumerate(document.get("items") or ()):
                yield f"{at}, item {index + 1}", item
        else:
            yield at, document


def _manifest(at: str, item: Any) -> Manifest:
    if not isinstance(item, dict):
        raise BadInput("-f", f"{at}: not a mapping; give a manifest with apiVersion, kind, metadata and spec")
    version, kind = item.get("apiVersion"), str(item.get("kind"))
    if version != API_VERSION:
        raise BadInput("-f", f"{at}: apiVersion: {version!r} is not known; give {API_VERSION}")
    if kind not in _SPECS:
        raise BadInput("-f", f"{at}: kind: {kind!r} is none that is played; give {' or '.join(_SPECS)}")
    metadata = item.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name = _name(f"{at} ({kind}): metadata.name", metadata.get("name"))
    namespace = ""
    if kind == "ModelDeployment":
        namespace = _name(f"{at} ({kind} {name}): metadata.namespace", metadata.get("namespace"))
    key = Key(namespace, name)
    try:
        # The API server drops a field that it does not know: a misspelt limit would be none.
        _SPECS[kind].model_validate(item.get("spec") or {}, extra="forbid")
    except ValidationError as error:
        first, *others = error.errors(include_url=False, include_input=False)
        field = ".".join(["spec", *(str(part) for part in first["loc"])])
        more = f" (and {len(others)} more)" if others else ""
        text = f"{field}: {first['msg'].removeprefix('Value error, ')}{more}"
        raise BadInput("-f", f"{at} ({kind} {_named(key)}): {text}; correct it") from error
    return Manifest(kind, key, item["spec"])


def _name(at: str, name: Any) -> str:
    if name is None:
        raise BadInput("-f", f"{at}: missing; give one")
    try:
        return _NAME.validate_python(name)
    except ValidationError as error:
        raise BadInput("-f", f"{at}: {name!r} is no name; give lower-case letters, digits and hyphens") from error


def _named(key: Key) -> str:
    return str(key) if key.namespace else key.name

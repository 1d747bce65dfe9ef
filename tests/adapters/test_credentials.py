"""Credentials handed on to another client are the bare token, wherever the library found it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from kubernetes.aio.config import incluster_config

from modelfleet.adapters.kubernetes import Kubernetes
from sandbox.certificates import Authority


async def _told(kubernetes: Kubernetes) -> tuple[str, str | None]:
    try:
        credentials = await kubernetes.credentials()
    finally:
        await kubernetes.close()
    return credentials.server, credentials.token


async def test_a_pods_own_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator has it where no kubeconfig is given; a command where there is none either, as kubectl does."""
    (tmp_path / "token").write_text("abc.def.ghi")
    (tmp_path / "namespace").write_text("team-a")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(Authority.create(tmp_path, "ca").certificate))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    kubernetes, namespace = await Kubernetes.connect_as_user(None, None)

    assert await _told(kubernetes) == ("https://[fd00::1]:443", "abc.def.ghi")
    assert namespace == "team-a"
    assert await _told(await Kubernetes.connect(None)) == ("https://[fd00::1]:443", "abc.def.ghi")


async def test_a_kubeconfig(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    user = {"name": "me", "user": {"token": "abc.def.ghi"}}
    cluster = {"name": "it", "cluster": {"server": "https://example:6443"}}
    context = {"name": "here", "context": {"cluster": "it", "user": "me"}}
    config = {"current-context": "here", "contexts": [context], "clusters": [cluster], "users": [user]}
    file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **config}))

    assert await _told(await Kubernetes.connect(str(file))) == ("https://example:6443", "abc.def.ghi")

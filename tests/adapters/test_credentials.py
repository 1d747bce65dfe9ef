"""Credentials handed on to another client are the bare token, wherever the library found it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from kubernetes.aio.config import incluster_config

from modelfleet.adapters.kubernetes import Kubernetes
from sandbox.certificates import Authority


async def _token(kubeconfig: str | None) -> tuple[str, str | None]:
    kubernetes = await Kubernetes.connect(kubeconfig)
    try:
        credentials = await kubernetes.credentials()
    finally:
        await kubernetes.close()
    return credentials.server, credentials.token


async def test_a_pods_own_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text("abc.def.ghi")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(Authority.create(tmp_path, "ca").certificate))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")

    assert await _token(None) == ("https://[fd00::1]:443", "abc.def.ghi")


async def test_a_kubeconfig(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    user = {"name": "me", "user": {"token": "abc.def.ghi"}}
    cluster = {"name": "it", "cluster": {"server": "https://example:6443"}}
    context = {"name": "here", "context": {"cluster": "it", "user": "me"}}
    config = {"current-context": "here", "contexts": [context], "clusters": [cluster], "users": [user]}
    file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **config}))

    assert await _token(str(file)) == ("https://example:6443", "abc.def.ghi")

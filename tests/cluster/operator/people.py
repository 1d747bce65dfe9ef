"""Somebody with an account: what the API server answers them, warnings included."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from sandbox import supervisor
from sandbox.cluster import Sandbox
from tests.cluster.operator.scene import USER

MERGE = "application/merge-patch+json"


@dataclass(frozen=True)
class Answer:
    """What the API server answered.

    Attributes:
        code: The HTTP status.
        warnings: Texts of the Warning headers.
    """

    code: int
    body: Any
    warnings: tuple[str, ...]

    @property
    def message(self) -> str:
        """Return why a request was refused."""
        return str(self.body.get("message", ""))


@dataclass(frozen=True)
class Person:
    """A user, whom the administrator impersonates: authorization and admission see the user."""

    sandbox: Sandbox
    user: str
    token: str = ""
    """A token of the user's own, where the user itself should ask."""

    @classmethod
    def operator(cls, sandbox: Sandbox) -> Person:
        """Return the operator's ServiceAccount."""
        return cls(sandbox, USER)

    def ask(self, method: str, path: str, body: Any = None, *, kind: str = "", **headers: str) -> Answer:
        """Send one request; a PATCH is a merge patch unless `kind` says otherwise."""
        who = (
            {"Authorization": f"Bearer {self.token}"}
            if self.token
            else {"Authorization": f"Bearer {self.sandbox.token}", "Impersonate-User": self.user}
        )
        content = kind or (MERGE if method == "PATCH" else "application/json")
        request = urllib.request.Request(  # noqa: S310 - the sandbox's own server
            self.sandbox.server + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={**who, "Content-Type": content, **headers},
        )
        opener = supervisor.https_opener(self.sandbox.directory / "pki" / "ca.crt")
        try:
            with opener.open(request, timeout=30) as answer:
                return Answer(answer.status, json.load(answer), _warnings(answer.headers))
        except urllib.error.HTTPError as error:
            return Answer(error.code, _parsed(error.read()), _warnings(error.headers))

    def grant(self, namespace: str, role: str) -> Person:
        """Bind the user to a ClusterRole within one namespace."""
        self.sandbox.request(
            "POST",
            f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings",
            {
                "metadata": {"name": f"{role}-{self.user.replace(':', '-')}"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": self.user}],
            },
        )
        return self


def _warnings(headers: Any) -> tuple[str, ...]:
    # 299 - "text", with quotes and backslashes escaped.
    return tuple(
        line.split(" ", 2)[2][1:-1].replace('\\"', '"').replace("\\\\", "\\")
        for line in headers.get_all("Warning") or ()
    )


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"message": text.decode(errors="replace")}

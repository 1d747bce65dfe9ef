"""What a sandbox runs: the keys, configuration files and command lines of its control plane."""

from __future__ import annotations

import base64
import json
import secrets
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sandbox.certificates import Authority, write_private_key
from sandbox.supervisor import Component

STAGES = Path(__file__).parent / "stages"

# Pods are numbered upward from 127.X.0.2, so the end of the sandbox's network is free for the control plane.
CONTROL_PLANE_HOST = "255.254"
# ClusterIP Services have addresses, though nothing routes them here: one for every model of the largest benchmark.
SERVICE_CIDR = "10.96.0.0/12"
FIRST_SERVICE_IP = "10.96.0.1"
# The controllers' default of 20 requests/s would take minutes over the pods of a benchmark.
CLIENT_RATE = ("--kube-api-qps=300", "--kube-api-burst=600")
STAGE_PARALLELISM = 64
SCRAPE_INTERVAL = "5s"

# Who may log in with a bearer token, and as which user of which groups. RBAC knows these two controllers from birth.
USERS = {
    "admin": ("sandbox-admin", "system:masters"),
    "kwok": ("kwok", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
}


@dataclass(frozen=True)
class ControlPlane:
    """The processes of one sandbox, ready to be started, and how to reach them.

    Attributes:
        server: URL of the API server.
        admin_token: The administrator's bearer token.
        prometheus_url: URL of Prometheus, empty without one.
        processes: In the order in which they start.
    """

    server: str
    admin_token: str
    prometheus_url: str
    processes: tuple[Component, ...]


def prepare(
    directory: Path,
    *,
    name: str,
    pod_cidr_prefix: str,
    tools: Mapping[str, Path],
    prometheus: bool | Path,
    audit: bool,
) -> ControlPlane:
    """Write every file that the components need, kubeconfig included, and return their command lines.

    Args:
        directory: The sandbox's own, empty.
        name: Names the kubeconfig's context.
        pod_cidr_prefix: "127.X", a network that is this sandbox's alone.
        tools: Path of each binary.
        prometheus: False, True for the default configuration, or a configuration file.
        audit: Log every request.
    """
    pki, config = directory / "pki", directory / "config"
    for path in (pki, config, directory / "logs"):
        path.mkdir()
    host = f"{pod_cidr_prefix}.{CONTROL_PLANE_HOST}"
    api_port, etcd_port, etcd_peer_port, prometheus_port = _free_ports(host, 4)
    server = f"https://{host}:{api_port}"
    etcd, etcd_peer = f"http://{host}:{etcd_port}", f"http://{host}:{etcd_peer_port}"

    ca = Authority.create(pki, "ca")
    serving = ca.issue(
        "kube-apiserver",
        dns_names=("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"),
        ip_addresses=(host, "127.0.0.1", FIRST_SERVICE_IP),
    )
    # The aggregator proves to extension API servers that a request comes from the front, and whose it is.
    front_ca = Authority.create(pki, "front-proxy-ca")
    front = front_ca.issue("front-proxy-client")
    token_key = write_private_key(pki / "service-account.key")

    tokens = {user: secrets.token_hex(16) for user in USERS}
    token_file = write_private(
        config / "tokens.csv",
        "".join(f'{tokens[user]},{login},{user},"{groups}"\n' for user, (login, groups) in USERS.items()),
    )
    credentials = {
        user: write_kubeconfig(
            config / f"{user}.kubeconfig", context=user, server=server, ca=ca.certificate, token=tokens[user]
        )
        for user in USERS
    }
    write_kubeconfig(
        directory / "kubeconfig", context=f"sandbox-{name}", server=server, ca=ca.certificate, token=tokens["admin"]
    )

    processes = [
        Component(
            "etcd",
            (
                str(tools["etcd"]),
                "--name=etcd",
                f"--data-dir={directory / 'etcd'}",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                f"--listen-peer-urls={etcd_peer}",
                f"--initial-advertise-peer-urls={etcd_peer}",
                f"--initial-cluster=etcd={etcd_peer}",
                "--unsafe-no-fsync",
                f"--quota-backend-bytes={4 << 30}",
                "--log-level=warn",
            ),
        ),
        Component(
            "kube-apiserver",
            (
                str(tools["kube-apiserver"]),
                f"--etcd-servers={etcd}",
                f"--bind-address={host}",
                f"--advertise-address={host}",
                f"--secure-port={api_port}",
                f"--tls-cert-file={serving.certificate}",
                f"--tls-private-key-file={serving.key}",
                f"--token-auth-file={token_file}",
                "--authorization-mode=Node,RBAC",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={token_key}",
                f"--service-account-signing-key-file={token_key}",
                f"--service-cluster-ip-range={SERVICE_CIDR}",
                f"--requestheader-client-ca-file={front_ca.certificate}",
                "--requestheader-allowed-names=front-proxy-client",
                "--requestheader-username-headers=X-Remote-User",
                "--requestheader-group-headers=X-Remote-Group",
                "--requestheader-extra-headers-prefix=X-Remote-Extra-",
                f"--proxy-client-cert-file={front.certificate}",
                f"--proxy-client-key-file={front.key}",
                # For the same reason as the controllers below: the server's own address is loopback too.
                "--endpoint-reconciler-type=none",
                "--allow-privileged=true",
                *(_audit_flags(directory) if audit else ()),
            ),
            ready_url=f"{server}/readyz",
        ),
        Component(
            "kube-controller-manager",
            (
                str(tools["kube-controller-manager"]),
                f"--kubeconfig={credentials['kube-controller-manager']}",
                "--use-service-account-credentials",
                f"--service-account-private-key-file={token_key}",
                f"--root-ca-file={ca.certificate}",
                # EndpointSlices refuse the pods' loopback addresses: the controllers would only fill the events.
                "--controllers=*,-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller",
                "--leader-elect=false",
                "--secure-port=0",
                *CLIENT_RATE,
            ),
        ),
        Component(
            "kube-scheduler",
            (
                str(tools["kube-scheduler"]),
                f"--kubeconfig={credentials['kube-scheduler']}",
                "--leader-elect=false",
                "--secure-port=0",
                *CLIENT_RATE,
            ),
        ),
        Component(
            "kwok",
            (
                str(tools["kwok"]),
                f"--kubeconfig={credentials['kwok']}",
                f"--config={_write_kwok_config(config / 'kwok.yaml', pod_cidr_prefix)}",
            ),
        ),
    ]
    prometheus_url = f"http://{host}:{prometheus_port}" if prometheus else ""
    if prometheus:
        file = prometheus if isinstance(prometheus, Path) else _write_prometheus_config(directory)
        processes.append(
            Component(
                "prometheus",
                (
                    str(tools["prometheus"]),
                    f"--config.file={file.resolve()}",
                    f"--storage.tsdb.path={directory / 'prometheus' / 'data'}",
                    f"--web.listen-address={host}:{prometheus_port}",
                    "--web.enable-lifecycle",
                    "--log.level=warn",
                ),
                ready_url=f"{prometheus_url}/-/ready",
            )
        )
    return ControlPlane(server, tokens["admin"], prometheus_url, tuple(processes))


def write_kubeconfig(path: Path, *, context: str, server: str, ca: Path, token: str) -> Path:
    """Write a kubeconfig with one context that needs no other file."""
    authority = base64.b64encode(ca.read_bytes()).decode()
    return write_private(
        path,
        _yaml(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": context,
                "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
                "clusters": [{"name": context, "cluster": {"server": server, "certificate-authority-data": authority}}],
                "users": [{"name": context, "user": {"token": token}}],
            }
        ),
    )


def _free_ports(host: str, count: int) -> list[int]:
    """Return ports nobody listens on; all are held until the last is known, so that they differ."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((host, 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _write_kwok_config(path: Path, pod_cidr_prefix: str) -> Path:
    options = {
        "cidr": f"{pod_cidr_prefix}.0.1/16",
        "nodeIP": "127.0.0.1",
        "manageNodesWithAnnotationSelector": "kwok.x-k8s.io/node=fake",
        "nodeLeaseDurationSeconds": 40,
        # With a configuration file none of these has a default, and 0 means never.
        "nodeLeaseParallelism": STAGE_PARALLELISM,
        "podPlayStageParallelism": STAGE_PARALLELISM,
        "nodePlayStageParallelism": STAGE_PARALLELISM,
        "podsOnNodeSyncParallelism": STAGE_PARALLELISM,
    }
    configuration = {"apiVersion": "config.kwok.x-k8s.io/v1alpha1", "kind": "KwokConfiguration", "options": options}
    path.write_text("---\n".join([_yaml(configuration), *(file.read_text() for file in sorted(STAGES.glob("*.yaml")))]))
    return path


def _write_prometheus_config(directory: Path) -> Path:
    targets = directory / "prometheus" / "targets"
    targets.mkdir(parents=True)
    path = directory / "config" / "prometheus.yaml"
    files = [str(targets / "*.json"), str(targets / "*.yaml")]
    path.write_text(
        _yaml(
            {
                "global": {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": SCRAPE_INTERVAL},
                "scrape_configs": [{"job_name": "pods", "file_sd_configs": [{"files": files}]}],
            }
        )
    )
    return path


def _audit_flags(directory: Path) -> tuple[str, str]:
    policy = directory / "config" / "audit.yaml"
    rules = [{"level": "Metadata", "omitStages": ["RequestReceived"]}]
    policy.write_text(_yaml({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
    return f"--audit-policy-file={policy}", f"--audit-log-path={directory / 'logs' / 'audit.log'}"


def write_private(path: Path, text: str) -> Path:
    """Write a file that only its owner may read."""
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def _yaml(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"  # every JSON document is YAML

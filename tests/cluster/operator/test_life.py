"""The operator process starts late, stalls, dies, is doubled and is missing; the cluster keeps its replicas."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sandbox.cluster import CHECKOUT, Sandbox
from sandbox.fleet import NAMESPACE, SERVICE_ACCOUNT, Operator, end, spawn
from tests.cluster.operator.scene import CHILD_KINDS, Audit, Cast, History, Team, Watched, same, unique, until

pytestmark = pytest.mark.xdist_group("operator-signals")

TAKEOVER_SECONDS = 10.0
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/modelfleet"


@pytest.fixture
def standby(cast: Cast, operator: Watched) -> Watched:
    """A second operator process, which waits for the first one's lease."""
    return cast.add()


def holder(sandbox: Sandbox) -> str:
    """Return who holds the lease."""
    return str(sandbox.request("GET", LEASE)["spec"].get("holderIdentity", ""))


def identity(member: Watched) -> str:
    """Return the name that a process writes into the lease."""
    return str(member.lines("listening")[0]["identity"])


def one_child_of_each(team: Team) -> dict[str, int]:
    """Return how many children a namespace has, by kind."""
    return {kind: sum(name.startswith(f"{kind}/") for name in team.versions()) for kind in CHILD_KINDS}


def test_the_standby_acts_soon_after_the_leader_is_killed(team: Team, operator: Watched, standby: Watched) -> None:
    """Killed without warning: what the spec asks for is done by the other within 10 s, once, and nothing else."""
    team.deploy()
    team.await_ready()
    before = team.versions()
    with History(team.sandbox, team.child_path("Deployment", "").rstrip("/")) as history:
        assert operator.end(signal.SIGKILL) == -signal.SIGKILL
        team.change(scaling={"minReplicas": 2})
        seconds = same(2, team.replicas, seconds=2 * TAKEOVER_SECONDS)
        team.await_ready(replicas=2)

    assert seconds < TAKEOVER_SECONDS
    assert holder(team.sandbox) == identity(standby)
    assert history.replicas() == [2]
    assert one_child_of_each(team) == dict.fromkeys(CHILD_KINDS, 1)
    assert before["Service/llama"] == team.versions()["Service/llama"]


def test_a_leader_that_was_paused_ends_without_a_write(team: Team, operator: Watched, standby: Watched) -> None:
    """Stopped beyond its lease and continued, it finds another leader: it exits, and what it would write is not."""
    team.deploy(scaling={"maxReplicas": 4})
    team.await_ready()
    with History(team.sandbox, team.child_path("Deployment", "").rstrip("/")) as history:
        operator.process.send_signal(signal.SIGSTOP)
        try:
            # What it knows is out of date from here on, and each of these would make it write.
            team.change(scaling={"minReplicas": 2})
            seconds = same(2, team.replicas, seconds=2 * TAKEOVER_SECONDS)
            team.change(scaling={"minReplicas": 3})
            team.deploy("mistral")
            team.await_ready(replicas=3)
            team.await_ready("mistral")
            team.sandbox.request("DELETE", team.child_path("Service"))
            until(lambda: team.child("Service"))
            standby.await_ticks(5)
            audit = Audit(team.sandbox)
        finally:
            operator.process.send_signal(signal.SIGCONT)
        code = operator.process.wait(10)
        standby.await_ticks(3)

    assert seconds < TAKEOVER_SECONDS
    assert code == 1
    assert operator.lines("stopped")[0]["failure"].startswith("leadership lost")
    assert audit.writes(by=operator) == []
    assert history.replicas() == [2, 3]
    assert one_child_of_each(team) == dict.fromkeys(CHILD_KINDS, 2)


def test_a_leader_that_is_told_to_stop_hands_over_at_once(team: Team, operator: Watched, standby: Watched) -> None:
    """SIGTERM releases the lease: the other leads within 3 s, as a roll-out of the operator needs."""
    operator.process.send_signal(signal.SIGTERM)
    seconds = same(identity(standby), lambda: holder(team.sandbox))
    until(standby.leads)

    assert operator.process.wait(10) == 0
    assert seconds < 3.0
    team.deploy()
    team.await_ready()


def test_without_an_operator_everything_can_be_deleted(
    sandbox: Sandbox, new_team: Callable[..., Team], cast: Cast
) -> None:
    """No finalizer, no webhook: a ModelDeployment, its pods and its namespace go while no operator runs."""
    deleted, emptied = new_team(), new_team()
    for team in (deleted, emptied):
        team.deploy()
        team.await_ready()
    cast.only().end()
    sandbox.request("DELETE", deleted.path())
    emptied.end()

    until(lambda: not deleted.pods() and deleted.versions() == {}, seconds=60)
    until(lambda: emptied.namespace not in sandbox.kubectl("get", "namespaces", "-o", "name"), seconds=60)


def test_an_operator_waits_for_an_api_server_that_is_not_there(cast: Cast, operator: Watched, tmp_path: Path) -> None:
    """Unreachable at the start: one clear line, alive but not ready, no traceback; it starts when the server comes."""
    sandbox = cast.fleet.sandbox
    with closed_port() as (port, listener):
        kubeconfig = json.loads(sandbox.service_account_kubeconfig(NAMESPACE, SERVICE_ACCOUNT).read_text())
        kubeconfig["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
        with operator_process(tmp_path, kubeconfig) as late:
            (line,) = until(lambda: late.lines("not started yet; retrying"))
            alive, waiting = late.operator.get("/healthz"), late.operator.get("/readyz")
            with forwarding(listener, sandbox.server):
                late.operator.wait_ready()
                ready = late.operator.get("/readyz")
                assert late.end() == 0
            text = late.operator.log.read_text()

    assert line["trouble"].startswith("the API server does not answer: ")
    assert alive == (200, "ok")
    assert waiting == (500, "waiting for the API server or the CRDs")
    assert ready == (200, "ok")
    assert "Traceback" not in text


def test_an_operator_whose_rights_arrive_late_starts_with_them(cast: Cast, operator: Watched, tmp_path: Path) -> None:
    """Its pod may run before its RBAC exists: it says what is refused, and goes on as soon as it is not."""
    sandbox = cast.fleet.sandbox
    name = unique("late")
    sandbox.request("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", {"metadata": {"name": name}})
    kubeconfig = json.loads(sandbox.service_account_kubeconfig(NAMESPACE, name).read_text())
    group = "rbac.authorization.k8s.io"
    subjects = [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}]
    with operator_process(tmp_path, kubeconfig) as late:
        (line,) = until(lambda: late.lines("not started yet; retrying"))
        for path, role in (
            ("clusterrolebindings", {"kind": "ClusterRole", "name": "modelfleet"}),
            (f"namespaces/{NAMESPACE}/rolebindings", {"kind": "Role", "name": "modelfleet-lease"}),
        ):
            binding = {"metadata": {"name": name}, "roleRef": {"apiGroup": group, **role}, "subjects": subjects}
            sandbox.request("POST", f"/apis/{group}/v1/{path}", binding)
        late.operator.wait_ready()
        assert late.end() == 0
        text = late.operator.log.read_text()
        sandbox.request("DELETE", f"/apis/{group}/v1/clusterrolebindings/{name}")

    assert line["trouble"].startswith("its own kinds cannot be read: ")
    assert "forbidden" in line["trouble"]
    assert "Traceback" not in text


def test_a_stall_of_the_api_server_ends_the_leader_but_writes_nothing(
    team: Team, operator: Watched, standby: Watched
) -> None:
    """Longer than the lease, no replica moves: the leader exits rather than guess, the standby waits and goes on."""
    team.deploy(scaling={"minReplicas": 2})
    team.await_ready(replicas=2)
    operator.await_ticks(3)
    before, audit = team.versions(), Audit(team.sandbox)
    with stalled_api_server(team.sandbox):
        code = operator.process.wait(20)
        health = standby.operator.get("/healthz"), standby.operator.get("/readyz")
    until(standby.leads)
    standby.await_ticks(12)

    assert code == 1
    assert health == ((200, "ok"), (200, "ok"))
    assert team.versions() == before
    assert [write for write in audit.writes() if team.namespace in write] == []
    team.change(scaling={"minReplicas": 1})
    same(1, team.replicas)


def test_a_short_stall_of_the_api_server_is_lived_through(team: Team, operator: Watched) -> None:
    """Two seconds without an answer: the same process leads on, and nothing was written."""
    team.deploy()
    team.await_ready()
    operator.await_ticks(3)
    before = team.versions()
    with stalled_api_server(team.sandbox):
        time.sleep(2)
    operator.await_ticks(4)

    assert operator.leads()
    assert team.versions() == before


def test_an_operator_waits_for_its_kinds(cast: Cast) -> None:
    """The CRDs go while no operator runs, and all objects with them; the next one says what to install, and starts."""
    cast.only().end()
    sandbox = cast.fleet.sandbox
    team = Team.create(sandbox)
    team.deploy()
    sandbox.kubectl("delete", "-f", str(CHECKOUT / "crds"), "--timeout=60s")
    late = Watched(cast.fleet.add_operator(), "")
    cast.members.append(late)
    try:
        (line,) = until(lambda: late.lines("not started yet; retrying"))
        readiness = late.operator.get("/readyz")
    finally:
        sandbox.kubectl("apply", "--server-side", "-f", str(CHECKOUT / "crds"))
        for presets in ("accelerators", "runtimes"):
            until(lambda presets=presets: _applied(sandbox, CHECKOUT / "charts" / "modelfleet" / "presets" / presets))  # type: ignore[misc]
    until(late.leads)

    assert line["trouble"] == (
        "the CRDs of modelfleet.dev/v1alpha1 are not installed: kubectl apply --server-side -f crds/"
    )
    assert readiness == (500, "waiting for the API server or the CRDs")
    team.deploy()
    team.await_ready()
    team.end()


def _applied(sandbox: Sandbox, directory: Path) -> bool:
    """Apply a directory of manifests; False while their kinds are not served yet."""
    with suppress(Exception):
        sandbox.kubectl("apply", "-f", str(directory))
        return True
    return False


# --- faults of the surroundings -------------------------------------------------------------------


@contextmanager
def operator_process(directory: Path, kubeconfig: dict[str, object]) -> Iterator[Watched]:
    """Start an operator with a kubeconfig of its own."""
    path, log = directory / "kubeconfig", directory / "operator.log"
    path.touch(mode=0o600)
    path.write_text(json.dumps(kubeconfig))
    command = [sys.executable, "-m", "modelfleet", "run", "--kubeconfig", str(path), "--namespace", NAMESPACE]
    process = spawn([*command, "--listen-address", "127.0.0.1", "--listen-port", "0"], log)
    try:
        yield Watched(Operator(process, log), "")
    finally:
        end([process])


@contextmanager
def stalled_api_server(sandbox: Sandbox) -> Iterator[None]:
    """Stop the API server's process: connections stay open, nothing is answered."""
    (process_id,) = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if (arguments := _arguments(path))
        and arguments[0].endswith("/kube-apiserver")
        and any(str(sandbox.directory) in argument for argument in arguments)
    ]
    os.kill(process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process_id, signal.SIGCONT)


def _arguments(path: Path) -> list[str]:
    with suppress(OSError):
        return path.read_text().split("\0")
    return []


@contextmanager
def closed_port() -> Iterator[tuple[int, socket.socket]]:
    """Hold a port that refuses connections until its socket listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1]), held


@contextmanager
def forwarding(listener: socket.socket, server: str) -> Iterator[None]:
    """Forward connections of a socket to the API server."""
    host, port = server.removeprefix("https://").split(":")
    loop = asyncio.new_event_loop()

    async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pipe(reader, upstream_writer), pipe(upstream_reader, writer))

    running = loop.run_until_complete(asyncio.start_server(connect, sock=listener))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(running.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()

"""`modelfleet whatif`: who would gain and lose which replicas under other Tenants. It reads; it never writes."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from time import time
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from modelfleet.adapters.history import HistoryError
from modelfleet.adapters.kubernetes import NotFound
from modelfleet.api.meta import API_VERSION
from modelfleet.api.tenant import TenantSpec
from modelfleet.cli.bad_input import BadInput
from modelfleet.cli.cluster import Cluster, Context, Kubeconfig, OutputOption, emit, in_cluster, refuse
from modelfleet.cli.simulate_past import seconds_of
from modelfleet.cli.whatif_files import Manifest, change, read_manifests
from modelfleet.cli.whatif_play import (
    Record,
    demand_of,
    deployments_now,
    deployments_then,
    look,
    play,
    read_record,
    refused,
    rest,
    tenants_now,
    tenants_then,
)
from modelfleet.cli.whatif_tables import show
from modelfleet.decide.snapshot import Fault, Snapshot
from modelfleet.shell.listing import read_cluster
from modelfleet.shell.mirror import Mirror

NEVER_RESTS = "replicas still move after thousands of decisions: what is shown is the last of them"


def whatif(
    files: Annotated[
        list[str] | None,
        typer.Option("--filename", "-f", help="Tenants and ModelDeployments, new or changed; - is standard input."),
    ] = None,
    delete: Annotated[list[str] | None, typer.Option(help="Name of a Tenant that would be gone.")] = None,
    prometheus: Annotated[
        str | None, typer.Option(help="Root URL of a Prometheus that scrapes the operator: play what it recorded too.")
    ] = None,
    since: Annotated[str, typer.Option(help="How far back: 30m, 12h, 7d or 2w.")] = "24h",
    unbound_may_borrow: Annotated[
        bool, typer.Option(help="As the operator was started: whether namespaces of no Tenant get what is idle.")
    ] = True,
    output: OutputOption = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show who would gain and lose which replicas if Tenants were other; nothing is written to the cluster."""
    try:
        since_seconds = seconds_of(since)
        manifests = read_manifests(files or ())
        if not manifests and not delete:
            raise BadInput("-f", "nothing would change; give a file with a Tenant, or --delete one")
        with _no_log_lines():
            answer = _answer(
                in_cluster(_read, kubeconfig=kubeconfig, context=context, namespace=None),
                manifests,
                delete or [],
                past=None if prometheus is None else (prometheus, since_seconds),
                unbound_may_borrow=unbound_may_borrow,
            )
    except (BadInput, HistoryError) as error:
        refuse(str(error))
    if output is None:
        show(answer)
    else:
        emit(answer, output)


@contextmanager
def _no_log_lines() -> Iterator[None]:
    """Keep what the operator's parts would log out of the answer: it is among the notes, or is the error."""
    before, requests = structlog.get_config(), logging.getLogger("urllib3")
    level = requests.level
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    requests.setLevel(logging.ERROR)
    try:
        yield
    finally:
        structlog.configure(**before)
        requests.setLevel(level)


async def _read(cluster: Cluster) -> Mirror:
    try:
        return await read_cluster(cluster.kubernetes)
    except NotFound as error:
        raise NotFound(f"the API server does not serve {API_VERSION}: install Modelfleet's CRDs ({error})") from error


def _answer(
    mirror: Mirror,
    manifests: tuple[Manifest, ...],
    deleted: list[str],
    *,
    past: tuple[str, int] | None,
    unbound_may_borrow: bool,
) -> dict[str, Any]:
    now = time()
    before = look(mirror, now=now, unbound_may_borrow=unbound_may_borrow)
    demand = demand_of(mirror.deployments.values())
    change(mirror, manifests, deleted, now=now)
    after = look(mirror, now=now, unbound_may_borrow=unbound_may_borrow)
    as_is, what_if = rest(before, demand), rest(after, demand_of(mirror.deployments.values()))
    notes = [] if as_is.rests and what_if.rests else [NEVER_RESTS]
    known = mirror.classes()
    notes += [
        f"Tenant {name} cannot be read, and counts as absent: {record.spec.message}"
        for name, record in sorted(mirror.tenants.items())
        if isinstance(record.spec, Fault)
    ]
    notes += [
        f"Tenant {name}: quota of class {quota.accelerator}, and there is no such AcceleratorClass"
        for name, record in sorted(mirror.tenants.items())
        if isinstance(record.spec, TenantSpec)
        for quota in record.spec.quotas
        if quota.accelerator not in known
    ]
    answer: dict[str, Any] = {
        "deployments": deployments_now(before, as_is, what_if),
        "tenants": tenants_now(as_is, what_if),
        "refused": refused(mirror),
        "notes": notes,
    }
    if past is not None:
        keys = {each.key for snapshot in (before, after) for each in snapshot.deployments}
        allowed = {
            namespace
            for snapshot in (before, after)
            for tenant in snapshot.tenants
            if tenant.allowances
            for namespace in tenant.namespaces
        }
        answer["past"] = _past(before, after, read_record(*past, keys, now=now, allowed=allowed))
    return answer


def _past(before: Snapshot, after: Snapshot, record: Record) -> dict[str, Any]:
    with _bar(2 * record.steps.count) as bar:
        worlds = play(before, record, bar), play(after, record, bar)
    begins, ends = (
        datetime.fromtimestamp(record.steps.at(number), UTC).isoformat() for number in (0, record.steps.count)
    )
    return {
        "begins": begins,
        "ends": ends,
        "deployments": deployments_then(after, worlds),
        "tenants": tenants_then(worlds),
        "notes": list(record.notes),
    }


@contextmanager
def _bar(steps: int) -> Iterator[Any]:
    """Show a bar on standard error where that is a terminal; it is gone in the end."""
    console = Console(stderr=True)
    columns = (TextColumn("minutes played"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=steps)
        yield lambda: bar.advance(task)

"""`modelfleet run`: one operator process."""

import asyncio
from typing import Annotated

import typer
import uvloop
from pydantic import ValidationError

from modelfleet.shell.settings import LogFormat, Settings, Source


def run(
    kubeconfig: Annotated[
        str | None, typer.Option(envvar="KUBECONFIG", help="Kubeconfig; the pod's service account when absent.")
    ] = None,
    namespace: Annotated[
        str, typer.Option(envvar="POD_NAMESPACE", help="Namespace of the operator's Lease.")
    ] = "modelfleet-system",
    watch_namespaces: Annotated[
        str, typer.Option(help="Comma-separated namespaces to act in and write to; all when empty.")
    ] = "",
    tick_seconds: Annotated[float, typer.Option(help="Seconds between two decisions.")] = 1.0,
    source: Annotated[Source, typer.Option(help="Where signals come from.")] = Source.SCRAPE,
    prometheus_url: Annotated[
        str | None, typer.Option(envvar="PROMETHEUS_URL", help="Root URL, for --source prometheus.")
    ] = None,
    prometheus_scrape_interval_seconds: Annotated[
        float, typer.Option(help="How often that Prometheus scrapes the pods.")
    ] = 15.0,
    scrapes_per_second: Annotated[float, typer.Option(help="Budget of direct scrapes for the fleet.")] = 250.0,
    unbound_may_borrow: Annotated[
        bool, typer.Option(help="Whether namespaces of no Tenant get GPUs that all Tenants leave idle.")
    ] = True,
    listen_port: Annotated[int, typer.Option(help="Port of /metrics, /healthz and /readyz; 0 picks one.")] = 8080,
    listen_address: Annotated[str, typer.Option(help="Address of the same.")] = "0.0.0.0",  # noqa: S104
    log_format: Annotated[LogFormat, typer.Option(help="json or console.")] = LogFormat.JSON,
) -> None:
    """Run the operator until it is told to stop."""
    from modelfleet.shell.process import operate  # noqa: PLC0415 - kopf: 0.7 s that no other command has to wait for

    try:
        settings = Settings(
            kubeconfig=kubeconfig,
            namespace=namespace,
            watch_namespaces=tuple(watch_namespaces.split(",")) if watch_namespaces else (),
            tick_seconds=tick_seconds,
            source=source,
            prometheus_url=prometheus_url,
            prometheus_scrape_interval_seconds=prometheus_scrape_interval_seconds,
            scrapes_per_second=scrapes_per_second,
            unbound_may_borrow=unbound_may_borrow,
            listen_port=listen_port,
            listen_address=listen_address,
            log_format=log_format,
        )
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'flags'}: {fault['msg']}" for fault in error.errors())
        raise typer.BadParameter(faults) from error
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        raise typer.Exit(runner.run(operate(settings)))

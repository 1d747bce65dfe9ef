"""`modelfleet doctor`: what is wrong with an installation and its deployments, and what to do about it."""

from typing import Annotated

import typer
from rich.text import Text

from modelfleet.cli.cluster import (
    OPERATOR_NAMESPACE,
    AnyNamespace,
    Cluster,
    Context,
    Kubeconfig,
    OperatorNamespace,
    OutputOption,
    clock,
    emit,
    in_cluster,
    printer,
)
from modelfleet.cli.doctor_checks import Finding, Severity, findings
from modelfleet.cli.doctor_facts import Facts, Unread, gather

STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: ""}


def doctor(
    namespace: AnyNamespace = None,
    prometheus_url: Annotated[str | None, typer.Option(help="Also ask this Prometheus, from here.")] = None,
    operator_namespace: OperatorNamespace = OPERATOR_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    output: OutputOption = None,
) -> None:
    """Look for what is wrong, in every namespace or in one. Exit code: 0 nothing, 1 errors, 2 cannot look."""

    async def look(cluster: Cluster) -> Facts:
        return await gather(
            cluster.kubernetes,
            namespace=namespace or "",
            operator_namespace=operator_namespace,
            prometheus_url=prometheus_url,
            clock=clock,
        )

    facts = in_cluster(look, kubeconfig=kubeconfig, context=context, namespace=namespace)
    found = findings(facts)
    if output is not None:
        emit([finding.plain() for finding in found], output)
    else:
        _show(found, facts)
    if any(finding.severity is Severity.ERROR for finding in found):
        raise typer.Exit(1)


def _show(found: list[Finding], facts: Facts) -> None:
    console = printer()
    for finding in found:
        console.print(Text(f"{finding.severity.value:<8}", style=STYLES[finding.severity]), end="")
        console.print(Text(f"{finding.where}: {finding.what}"))
        console.print(Text(f"        → {finding.remedy}"))
    looked = [] if isinstance(facts.deployments, Unread) else facts.deployments
    errors = sum(finding.severity is Severity.ERROR for finding in found)
    warnings = sum(finding.severity is Severity.WARNING for finding in found)
    console.print(Text(f"{len(looked)} ModelDeployments looked at: {errors} errors, {warnings} warnings"))

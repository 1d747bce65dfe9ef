"""`modelfleet crds`: the kinds as manifests."""

from pathlib import Path
from typing import Annotated

import typer

from modelfleet.api.crd import custom_resource_definition, to_yaml
from modelfleet.api.kinds import KINDS
from modelfleet.api.meta import GROUP


def crds(
    output: Annotated[
        Path | None,
        typer.Option(help="Directory to write one file per kind to; standard output when absent.", file_okay=False),
    ] = None,
) -> None:
    """Print the CustomResourceDefinitions, or write them to a directory."""
    manifests = {f"{GROUP}_{kind.plural}.yaml": to_yaml(custom_resource_definition(kind)) for kind in KINDS}
    if output is None:
        typer.echo("---\n".join(manifests.values()), nl=False)
        return
    output.mkdir(parents=True, exist_ok=True)
    for name, manifest in manifests.items():
        (output / name).write_text(manifest, encoding="utf-8")

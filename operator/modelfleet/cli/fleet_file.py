"""The file that `modelfleet simulate --fleet` reads: nodes, and the deployments that share them."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

from modelfleet.api.meta import Name
from modelfleet.cli.bad_input import BadInput
from modelfleet.cli.simulate_load import Asked, Synthetic, read_load
from modelfleet.decide.snapshot import Node
from modelfleet.simulate.arrivals import Lengths
from modelfleet.simulate.calibration import DEFAULT_CALIBRATION, ReplicaModel
from modelfleet.simulate.fleet import FLEET, Deployed, Fleet, own_seed
from modelfleet.simulate.policy import Circumstances
from modelfleet.simulate.shapes import Shape

Above0 = Annotated[float, Field(gt=0.0, le=1e9)]
Replicas = Annotated[int, Field(ge=1, le=1_000)]


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, allow_inf_nan=False
    )


class Nodes(_Model):
    """Nodes that are alike."""

    accelerator: Name
    count: Annotated[int, Field(ge=1, le=10_000)]
    gpus: Annotated[int, Field(ge=1, le=64)]


class FleetLoad(_Model):
    """A trace or a shape."""

    trace: Path | None = None
    """Relative to the file that names it."""
    rate_scale: Above0 = 1.0
    shape: Shape | None = None
    rate: Above0 = 10.0
    duration_seconds: Above0 = 3600.0
    phase: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Part of the shape at which it begins: peaks need not coincide."""
    prompt_tokens: Annotated[float, Field(ge=1.0, le=1e6)] = 1000.0
    output_tokens: Annotated[float, Field(ge=1.0, le=1e6)] = 200.0
    variation: Annotated[float, Field(ge=0.0, le=100.0)] = 0.5

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.trace is None) == (self.shape is None):
            raise ValueError(f"give one of trace (a file) and shape ({', '.join(Shape)})")
        of_the_other = {"rate", "duration_seconds", "phase"} if self.trace else {"rate_scale"}
        if unused := sorted(self.model_fields_set & of_the_other):
            raise ValueError(f"{to_camel(unused[0])} belongs to a {'shape' if self.trace else 'trace'}; drop it")
        return self


class FleetDeployment(_Model):
    """One deployment."""

    name: Name
    accelerator: Name
    priority: Annotated[int, Field(ge=-1_000, le=1_000)] = 0
    calibration: ReplicaModel = Field(default_factory=lambda: _named(DEFAULT_CALIBRATION))
    min_replicas: Replicas = 1
    max_replicas: Replicas = 16
    start_seconds: Annotated[float, Field(ge=0.0, le=1e6)] = 110.0
    ttft_seconds: Above0 | None = None
    tpot_milliseconds: Above0 | None = None
    load: FleetLoad

    @field_validator("calibration", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"calibration": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.name == FLEET:
            raise ValueError(f"the name {FLEET!r} is the total's; take another")
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"minReplicas {self.min_replicas} is above maxReplicas {self.max_replicas}; lower it")
        return self


class FleetFile(_Model):
    """The whole file."""

    nodes: Annotated[tuple[Nodes, ...], Field(min_length=1)]
    deployments: Annotated[tuple[FleetDeployment, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_has_nodes(self) -> Self:
        largest: dict[str, int] = {}
        for nodes in self.nodes:
            largest[nodes.accelerator] = max(nodes.gpus, largest.get(nodes.accelerator, 0))
        seen = set()
        for each in self.deployments:
            if each.name in seen:
                raise ValueError(f"two deployments are named {each.name!r}; rename one")
            seen.add(each.name)
            if each.accelerator not in largest:
                raise ValueError(
                    f"{each.name}: no nodes have accelerator {each.accelerator!r}; known: {', '.join(sorted(largest))}"
                )
            if each.calibration.gpus > largest[each.accelerator]:
                raise ValueError(
                    f"{each.name}: a replica takes {each.calibration.gpus} GPUs and no {each.accelerator} node has "
                    f"more than {largest[each.accelerator]}; raise the nodes' gpus"
                )
        return self


def _named(calibration: str) -> ReplicaModel:
    return ReplicaModel.model_validate({"calibration": calibration})


def read_fleet(
    path: Path,
    *,
    ttft_seconds: float,
    tpot_milliseconds: float,
    limit_seconds: float | None,
    seed: int,
    warn: Callable[[str], None],
) -> Fleet:
    """Read a fleet and draw its requests.

    Args:
        path: The file, YAML or JSON.
        ttft_seconds: Target of deployments that give none.
        tpot_milliseconds: The same of the time between tokens.
        limit_seconds: Cut the loads after this long; None keeps all.
        seed: Of every random draw; each deployment has its own draws.
        warn: Told, in whole lines, about everything that is left out.

    Raises:
        BadInput: If the file is none, or a load cannot be read or drawn.
    """
    file = _parse(path)
    nodes: dict[str, list[Node]] = {}
    for group in file.nodes:
        its = nodes.setdefault(group.accelerator, [])
        its += [
            Node(f"{group.accelerator}-{len(its) + more:05}", group.gpus, group.gpus) for more in range(group.count)
        ]
    return Fleet(
        nodes={accelerator: tuple(its) for accelerator, its in nodes.items()},
        deployments={
            each.name: Deployed(
                circumstances=Circumstances(
                    model=each.calibration,
                    start_seconds=each.start_seconds,
                    ttft_seconds=each.ttft_seconds or ttft_seconds,
                    tpot_seconds=(each.tpot_milliseconds or tpot_milliseconds) / 1000.0,
                    arrivals=read_load(
                        _asked(each, path.parent, limit_seconds, seed), each.calibration, warn=warn, at=_at(each, path)
                    ).arrivals,
                ),
                accelerator=each.accelerator,
                priority=each.priority,
                min_replicas=each.min_replicas,
                max_replicas=each.max_replicas,
            )
            # By name: their order in the file changes nothing.
            for each in sorted(file.deployments, key=lambda each: each.name)
        },
    )


def _at(deployment: FleetDeployment, path: Path) -> str:
    return f"--fleet {path}: {deployment.name}.load"


def _asked(deployment: FleetDeployment, folder: Path, limit_seconds: float | None, seed: int) -> Asked:
    load = deployment.load
    return Asked(
        source=folder / load.trace
        if load.trace is not None
        else Synthetic(str(load.shape), load.rate, load.duration_seconds, load.phase),
        lengths=Lengths(load.prompt_tokens, load.output_tokens, load.variation),
        rate_scale=load.rate_scale,
        limit_seconds=limit_seconds,
        seed=own_seed(seed, deployment.name),
    )


def _parse(path: Path) -> FleetFile:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput("--fleet", f"cannot read {path}: {error}; give a readable file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput("--fleet", f"{path} is neither JSON nor YAML: {error}") from error
    if not isinstance(values, dict):
        raise BadInput("--fleet", f"{path} holds no mapping; give nodes and deployments")
    try:
        return FleetFile.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "fleet"
        raise BadInput("--fleet", f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from error

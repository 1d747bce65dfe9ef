"""The operator's own configuration, from flags and the environment; never from a user's object."""

import os
import socket
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Source(StrEnum):
    """Where signals come from."""

    SCRAPE = "scrape"
    PROMETHEUS = "prometheus"


class LogFormat(StrEnum):
    """How log lines look."""

    JSON = "json"
    CONSOLE = "console"


def identity() -> str:
    """Return a name for this process that no other replica has."""
    return f"{os.environ.get('POD_NAME') or socket.gethostname()}_{os.getpid()}"


class Settings(BaseModel):
    """What `modelfleet run` was started with."""

    model_config = ConfigDict(frozen=True)

    kubeconfig: str | None = None
    namespace: Annotated[str, Field(min_length=1, max_length=63)] = "modelfleet-system"
    """Namespace of the operator's Lease."""
    watch_namespaces: tuple[Annotated[str, Field(min_length=1, max_length=63)], ...] = ()
    """Namespaces whose ModelDeployments are run, and the only ones written to; all when empty."""
    identity: Annotated[str, Field(min_length=1, max_length=253)] = Field(default_factory=identity)
    tick_seconds: Annotated[float, Field(ge=0.2, le=60)] = 1.0
    """Time between two decisions; a change of a spec is decided about at once."""
    source: Source = Source.SCRAPE
    prometheus_url: str | None = None
    prometheus_scrape_interval_seconds: Annotated[float, Field(ge=1, le=300)] = 15.0
    """How often that Prometheus scrapes the pods; three of these make a sample stale."""
    scrapes_per_second: Annotated[float, Field(ge=1, le=10_000)] = 250.0
    """Budget of direct scrapes for the whole fleet."""
    unbound_may_borrow: bool = True
    """Whether namespaces of no Tenant get GPUs that all Tenants leave idle; asked only where there is a Tenant."""
    listen_address: str = "0.0.0.0"  # noqa: S104 - probes and Prometheus come from outside the pod
    listen_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port of /metrics, /healthz and /readyz; 0 picks a free one."""
    log_format: LogFormat = LogFormat.JSON

    @model_validator(mode="after")
    def _prometheus_needs_url(self) -> Self:
        if self.source is Source.PROMETHEUS and not self.prometheus_url:
            raise ValueError("--source prometheus needs --prometheus-url")
        return self

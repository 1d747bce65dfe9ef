"""Every kopf decorator of the operator. Handlers hand over what they get; they decide nothing."""

from typing import Any

import kopf

from modelfleet.api.meta import GROUP, VERSION
from modelfleet.shell.process import Process


class NoMemory(kopf.DiffBaseStorage):
    """Keeps kopf from remembering objects: handlers of events need none of it.

    Its own memory is an annotation of the object. A team that writes nonsense there would keep every later event of
    the object, its deletion too, from the handlers.
    """

    def build(self, **_: Any) -> Any:
        """Return that there is nothing to compare."""
        return {}

    def fetch(self, **_: Any) -> None:
        """Return that nothing was remembered."""

    def store(self, **_: Any) -> None:
        """Remember nothing."""


@kopf.on.login()
async def login(memo: Process, **_: Any) -> kopf.ConnectionInfo:
    """Let kopf speak to the same server as the same user as everything else here."""
    own = await memo.credentials()
    return kopf.ConnectionInfo(
        server=own.server,
        token=own.token,
        ca_path=own.ca_path,
        certificate_path=own.certificate_path,
        private_key_path=own.private_key_path,
        insecure=own.insecure,
    )


# kopf's own pause after a failure is a minute.
@kopf.on.startup(backoff=2.0)
async def configure(settings: kopf.OperatorSettings, memo: Process, **_: Any) -> None:
    """Set kopf up and start everything else."""
    # Events are written by our own recorder, aggregated; kopf would write one a log line.
    settings.posting.enabled = False
    # The kinds exist before kopf starts; looking for new ones would need rights on all CRDs.
    settings.scanning.disabled = True
    settings.watching.server_timeout = 290
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = 75
    settings.networking.request_timeout = 30
    settings.execution.max_workers = 2
    settings.persistence.diffbase_storage = NoMemory()
    await memo.start()


@kopf.on.cleanup()
async def stop(memo: Process, **_: Any) -> None:
    """Finish the writes under way and let go of the lease."""
    await memo.stop()


@kopf.on.event(GROUP, VERSION, "modeldeployments")
async def model_deployment(event: Any, memo: Process, **_: Any) -> None:
    """Mirror a ModelDeployment."""
    memo.mirror.model_deployment(event["type"], event["object"])


@kopf.on.event(GROUP, VERSION, "inferenceruntimes")
async def inference_runtime(event: Any, memo: Process, **_: Any) -> None:
    """Mirror an InferenceRuntime."""
    memo.mirror.inference_runtime(event["type"], event["object"])


@kopf.on.event(GROUP, VERSION, "acceleratorclasses")
async def accelerator_class(event: Any, memo: Process, **_: Any) -> None:
    """Mirror an AcceleratorClass."""
    memo.mirror.accelerator_class(event["type"], event["object"])


@kopf.on.event(GROUP, VERSION, "tenants")
async def tenant(event: Any, memo: Process, **_: Any) -> None:
    """Mirror a Tenant."""
    memo.mirror.tenant(event["type"], event["object"])

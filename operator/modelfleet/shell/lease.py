"""Leadership by a Lease: one of several replicas acts, and it knows when it may not.

The `kubernetes` package has an election, but it keeps its record in an annotation, measures by the
wall clock and reads before each renewal. Here durations are monotonic, a standby learns of renewals
by a watch instead of asking, and the leader renews with one request each 2.5 s: 0.4 requests a second
in all.
"""

import asyncio
from datetime import UTC, datetime
from time import monotonic

import structlog

from modelfleet.adapters.kubernetes import (
    Conflict,
    Json,
    Kubernetes,
    KubernetesError,
    NotFound,
    resource_path,
)
from modelfleet.api.meta import FIELD_MANAGER

LEASE_NAME = "modelfleet"
LEASE_SECONDS = 8
"""A standby takes over this long after the last renewal it heard of."""
RENEW_SECONDS = 2.5
GIVE_UP_SECONDS = 6.5
"""A leader whose last renewal began this long ago stops acting: before any standby may start."""
RETRY_SECONDS = 0.5

log = structlog.get_logger()


class NotLeading(KubernetesError):
    """The lease is not held, so nothing may be written."""


class LeadershipLost(Exception):
    """The lease could not be renewed in time, or somebody else holds it."""


class Leadership:
    """This process's claim to the Lease."""

    def __init__(self, kubernetes: Kubernetes, *, namespace: str, identity: str) -> None:
        """Prepare; `acquire` waits for the lease, `keep` renews it."""
        self._kubernetes = kubernetes
        self._collection = resource_path("coordination.k8s.io/v1", "Lease", namespace=namespace)
        self._path = f"{self._collection}/{LEASE_NAME}"
        self._identity = identity
        self._lease: Json | None = None
        self._renewed_at: float | None = None
        self.trouble = "the lease is not read yet"
        """Why this process could not take the lease if it were free; empty when it could, or holds it."""

    def held(self) -> bool:
        """Return whether this process may write now."""
        return self._renewed_at is not None and monotonic() - self._renewed_at < GIVE_UP_SECONDS

    def ask(self) -> None:
        """Refuse a write that is no longer this process's: it may have been paused since the one before.

        Raises:
            NotLeading: When it may not write.
        """
        if not self.held():
            raise NotLeading("this process does not lead any more")

    async def acquire(self) -> None:
        """Wait until the lease is free or expired, and take it."""
        while True:
            try:
                holder = await self._wait_until_expired()
                await self._claim(took_over=True)
            except Conflict:
                continue  # another standby was faster; watch it
            except KubernetesError as error:
                trouble = f"the lease cannot be read or written: {error}"
                if self.trouble != trouble:
                    self.trouble = trouble
                    log.warning("the lease cannot be read or written; retrying", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                log.info("leading", identity=self._identity, after=holder or "nobody")
                return

    async def keep(self) -> None:
        """Renew until it fails.

        Raises:
            LeadershipLost: When another holds the lease, or no renewal succeeded in time.
        """
        while True:
            # From the start of the last renewal: what a busy process loses must not add up.
            began = monotonic() if self._renewed_at is None else self._renewed_at
            await asyncio.sleep(max(0.0, began + RENEW_SECONDS - monotonic()))
            if not await self._renewed():
                await asyncio.sleep(RETRY_SECONDS)

    async def _renewed(self) -> bool:
        """Try to renew once; return whether it worked."""
        if not self.held():
            raise LeadershipLost(f"no renewal within {GIVE_UP_SECONDS} s")
        try:
            # Not asyncio.wait_for: until Python 3.12 it swallows a cancellation that arrives with the answer.
            async with asyncio.timeout(RENEW_SECONDS):
                await self._claim(took_over=False)
        except Conflict:
            await self._reread()
            return False
        except (KubernetesError, TimeoutError) as error:
            log.warning("lease not renewed; retrying", error=str(error) or "no answer in time")
            return False
        return True

    async def _reread(self) -> None:
        """Read the lease that changed under a renewal: by a renewal whose answer was lost, or by a successor."""
        try:
            self._lease = await self._kubernetes.get(self._path)
        except KubernetesError as error:
            log.warning("lease not read; retrying", error=str(error))
            return
        if self._lease["spec"].get("holderIdentity") != self._identity:
            raise LeadershipLost("another replica holds the lease")

    async def release(self) -> None:
        """Let go, so that a standby need not wait; best effort."""
        if self._lease is None or not self.held():
            return
        self._renewed_at = None
        spec = {**self._lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            await self._kubernetes.replace(self._path, {**self._lease, "spec": spec})
        except KubernetesError as error:
            log.warning("lease not released; it expires by itself", error=str(error))

    async def _wait_until_expired(self) -> str:
        """Watch the lease until its holder has been silent for its duration; return the holder."""
        while True:
            try:
                self._lease = await self._kubernetes.get(self._path)
            except NotFound:
                self._lease = None
                return ""
            spec = self._lease["spec"]
            holder = spec.get("holderIdentity") or ""
            if not holder:
                return ""
            self.trouble = ""
            # The holder's clock does not count: the wait starts when its renewal is heard of here.
            try:
                async with asyncio.timeout(spec.get("leaseDurationSeconds", LEASE_SECONDS)):
                    await self._next_renewal()
            except TimeoutError:
                return str(holder)

    async def _next_renewal(self) -> None:
        assert self._lease is not None  # noqa: S101 - the caller just read it
        version = self._lease["metadata"]["resourceVersion"]
        while True:
            async for event in self._kubernetes.watch(
                self._collection, version, field_selector=f"metadata.name={LEASE_NAME}"
            ):
                if event["type"] != "BOOKMARK":
                    return

    async def _claim(self, *, took_over: bool) -> None:
        """Write this process's name into the lease; its resource version makes that exclusive."""
        began = monotonic()
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        before = self._lease["spec"] if self._lease is not None else {}
        spec = {
            **before,
            "holderIdentity": self._identity,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": now,
        }
        if took_over:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = before.get("leaseTransitions", -1) + 1
        if self._lease is None:
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": LEASE_NAME}}
            self._lease = await self._kubernetes.create(
                self._collection, {**body, "spec": spec}, field_manager=FIELD_MANAGER
            )
        else:
            self._lease = await self._kubernetes.replace(self._path, {**self._lease, "spec": spec})
        self._renewed_at = began
        self.trouble = ""

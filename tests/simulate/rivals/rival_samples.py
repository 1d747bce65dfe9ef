"""Samples with little in them."""

from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.policy import Circumstances, PodSample, Sample, Setting


def pod(
    uid: str = "a",
    *,
    ready: bool = True,
    queued: int = 0,
    running: int = 0,
    kv_tokens: int = 0,
    utilization: float = 0.0,
    queued_tokens: int = 0,
    generated: int = 0,
    finished: int = 0,
) -> PodSample:
    """A pod that is as old as the run."""
    return PodSample(
        uid=uid,
        created_at=0.0,
        ready_at=0.0 if ready else None,
        queued_requests=queued,
        running_requests=running,
        kv_tokens=kv_tokens,
        kv_cache_utilization=utilization,
        queued_prompt_tokens=queued_tokens,
        prompt_tokens=0,
        generated_tokens=generated,
        finished_requests=finished,
        ttft_seconds_sum=0.0,
        first_tokens=0,
        inter_token_seconds_sum=0.0,
        inter_tokens=0,
    )


def sample(
    at: float, *pods: PodSample, arrived: int = 0, prompt_tokens: int = 0, active: int = 0, held: int = 0
) -> Sample:
    """A deployment at a moment."""
    return Sample(at, pods, arrived, prompt_tokens, active, held)


def setting(target: float, *, least: int = 1, most: int = 100) -> Setting:
    """A tuning."""
    return Setting(target, least, most)


def circumstances(model: ReplicaModel | None = None, *, ttft: float = 0.5, tpot: float = 0.05) -> Circumstances:
    """A deployment; Dynamo's default latency targets."""
    return Circumstances(model or ReplicaModel(), 60.0, ttft, tpot, ())

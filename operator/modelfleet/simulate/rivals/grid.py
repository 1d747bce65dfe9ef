"""Which targets a rival's expert would try: wide enough for any trace, as even in ratio as a dozen values allow."""

from typing import Final

from modelfleet.simulate.calibration import ReplicaModel

TARGETS: Final = 12


def geometric(first: float, last: float, *, count: int = TARGETS) -> tuple[float, ...]:
    """Return values from first to last, each the same factor from the one before.

    Args:
        first: Above zero.
        last: Above zero.
        count: At least two.
    """
    factor = (last / first) ** (1.0 / (count - 1))
    return tuple(first * factor**step for step in range(count))


def in_flight_targets(model: ReplicaModel) -> tuple[float, ...]:
    """Return requests in flight per replica, cheapest first.

    From all that the batch holds, where a burst can only queue, down to fewer than two, where a replica that does
    little but prefill is nearly idle.
    """
    return geometric(float(model.max_running), 1.5)


def full_batch_tokens_per_second(model: ReplicaModel) -> float:
    """Return the tokens that a replica with a full batch and half its KV cache generates, were there no prefill."""
    step_ms = (
        model.decode_base_ms
        + model.decode_ms_per_sequence * model.max_running
        + model.decode_ms_per_kv_token * model.kv_cache_tokens / 2.0
    )
    return 1000.0 * model.max_running / step_ms

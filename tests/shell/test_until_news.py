"""How the fleet loop waits for the next tick."""

import asyncio
from time import monotonic

import pytest

from modelfleet.shell.loop import until_news


async def test_news_end_the_wait() -> None:
    """They are waited for no longer than the tick."""
    news = asyncio.Event()
    began = monotonic()
    await until_news(news, 0.05)
    asyncio.get_running_loop().call_later(0.05, news.set)
    await until_news(news, 60.0)

    assert 0.05 < monotonic() - began < 30.0


@pytest.mark.parametrize("steps", range(6))
async def test_a_cancellation_that_comes_with_the_news_is_not_lost(steps: int) -> None:
    """However many turns of the event loop lie between the two: who lost the lease must not decide on."""
    news = asyncio.Event()
    waiting = asyncio.create_task(until_news(news, 60.0))
    for _ in range(3):
        await asyncio.sleep(0)
    news.set()
    for _ in range(steps):
        await asyncio.sleep(0)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting

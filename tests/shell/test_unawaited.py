"""What kopf leaves behind when it is stopped must not look like a crash."""

import asyncio
from unittest.mock import Mock

from aiohttp import ClientConnectionError
from structlog.testing import capture_logs

from modelfleet.shell.telemetry import log_unawaited


def test_a_cut_connection_is_one_line() -> None:
    """Nobody waits for the task any more, and there is nothing to mend."""
    loop = Mock(spec=asyncio.AbstractEventLoop)
    with capture_logs() as lines:
        log_unawaited(loop, {"message": "never retrieved", "exception": ClientConnectionError("Connection closed")})

    assert [(line["log_level"], line["error"]) for line in lines] == [("warning", "Connection closed")]
    assert not loop.default_exception_handler.called


def test_anything_else_keeps_its_traceback() -> None:
    """A programmer's error is for the loop's own handler."""
    loop, context = Mock(spec=asyncio.AbstractEventLoop), {"message": "never retrieved", "exception": KeyError("spec")}
    with capture_logs() as lines:
        log_unawaited(loop, context)

    assert lines == []
    loop.default_exception_handler.assert_called_once_with(context)

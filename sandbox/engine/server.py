"""The HTTP face of a simulated engine: OpenAI completions, health and metrics, at one address."""

import asyncio
import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from aiohttp import web

from sandbox.engine import faults
from sandbox.engine.dialects import EXPOSITION_CONTENT_TYPE
from sandbox.engine.faults import FaultKind
from sandbox.engine.runner import PodEngine, Stream, TooLong

DEFAULT_MAX_TOKENS: Final = 64
MAX_BODY_BYTES: Final = 4 * 2**20
SHUTDOWN_SECONDS: Final = 0.5
"""What closing a listener leaves to handlers that were already cut off."""

# Short words without JSON escapes, so that a chunk is three byte strings put together.
_WORDS: Final = (b" the", b" model", b" says", b" what", b" it", b" was", b" asked", b" to", b" say")


class BadRequest(ValueError):
    """A request the engine refuses with 400."""


@dataclass(frozen=True)
class CompletionRequest:
    """What the simulation needs of an OpenAI request."""

    chat: bool
    model: str | None
    prompt_tokens: int
    output_tokens: int
    stream: bool
    include_usage: bool


def parse_completion(body: bytes, *, chat: bool) -> CompletionRequest:
    """Return the request in a body. The tokenizer counts whitespace-separated words.

    Raises:
        BadRequest: If it is not JSON or lacks what it needs.
    """
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise BadRequest(f"body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise BadRequest("body must be a JSON object")
    model = fields.get("model")
    if model is not None and not isinstance(model, str):
        raise BadRequest("model must be a string")
    if fields.get("n") not in (None, 1):
        raise BadRequest("n must be 1")
    output_tokens = fields.get("max_completion_tokens") or fields.get("max_tokens")
    if output_tokens is None:
        output_tokens = DEFAULT_MAX_TOKENS
    if not isinstance(output_tokens, int) or isinstance(output_tokens, bool) or output_tokens < 1:
        raise BadRequest("max_tokens must be an integer of at least 1")
    options = fields.get("stream_options")
    return CompletionRequest(
        chat=chat,
        model=model,
        prompt_tokens=max(_words_of_chat(fields) if chat else _words_of_prompt(fields), 1),
        output_tokens=output_tokens,
        stream=bool(fields.get("stream", False)),
        include_usage=isinstance(options, dict) and bool(options.get("include_usage", False)),
    )


def _words_of_chat(fields: Mapping[str, Any]) -> int:
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list of at least one message")
    words = 0
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRequest("every message must be an object with a role")
        content = message.get("content")
        if isinstance(content, str):
            words += len(content.split())
        elif isinstance(content, list):
            words += sum(len(str(part.get("text", "")).split()) for part in content if isinstance(part, dict))
        elif content is not None:
            raise BadRequest("content must be a string or a list of parts")
    return words


def _words_of_prompt(fields: Mapping[str, Any]) -> int:
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return len(prompt.split())
    if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
        return len(prompt)
    raise BadRequest("prompt must be one string or one list of token ids")


def _error(status: int, message: str, kind: str, *, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error in OpenAI's shape."""
    error = {"message": message, "type": kind, "param": None, "code": status}
    return web.json_response({"error": error}, status=status, headers=headers)


class _Chunks:
    """The pieces of one streamed answer, encoded once."""

    def __init__(
        self, request: CompletionRequest, stream: Stream, *, request_id: str, model: str, created: int
    ) -> None:
        kind = "chat.completion.chunk" if request.chat else "text_completion"
        self._head = (
            f'data: {{"id":"{request_id}","object":"{kind}","created":{created},"model":{json.dumps(model)},"choices":['
        ).encode()
        self._chat = request.chat
        self._prompt_tokens = stream.prompt_tokens
        self._output_tokens = stream.output_tokens
        self._before = self._head + (b'{"index":0,"delta":{"content":"' if request.chat else b'{"index":0,"text":"')
        close = b'"}' if request.chat else b'"'
        self._after = close + b',"logprobs":null,"finish_reason":null}]}\n\n'
        self._after_last = close + b',"logprobs":null,"finish_reason":"length"}]}\n\n'

    def role(self) -> bytes:
        """What opens a chat stream, in the same write as the first token."""
        if not self._chat:
            return b""
        return self._head + (
            b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}\n\n'
        )

    def token(self, index: int) -> bytes:
        """The chunk of one token, counted from zero."""
        after = self._after_last if index == self._output_tokens - 1 else self._after
        return self._before + _WORDS[index % len(_WORDS)] + after

    def usage(self) -> bytes:
        """The chunk that `include_usage` asks for: no choices."""
        usage = json.dumps(_usage(self._prompt_tokens, self._output_tokens), separators=(",", ":"))
        return self._head + b'],"usage":' + usage.encode() + b"}\n\n"


def _usage(prompt_tokens: int, output_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
    }


class EngineServer:
    """Listens at one address for one engine."""

    def __init__(self, engine: PodEngine) -> None:
        """Serve this engine; nothing listens before `start`."""
        self.engine = engine
        self._listener: asyncio.Server | None = None
        self._http: web.Server | None = None
        self._ids = itertools.count(1)

    async def start(self, host: str, port: int) -> None:
        """Listen.

        Raises:
            OSError: If the address cannot be bound.
        """
        # handler_cancellation: a client that goes away ends its handler, and so frees its slot.
        self._http = web.Server(
            self._answer,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=75.0,
        )
        self._listener = await asyncio.get_running_loop().create_server(
            self._http, host, port, backlog=1024, reuse_address=True
        )

    @property
    def port(self) -> int:
        """The port bound, when 0 was asked for."""
        assert self._listener is not None
        return int(self._listener.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and close every connection."""
        if self._listener is not None:
            self._listener.close()
        if self._http is not None:
            self._http.pre_shutdown()
            await self._http.shutdown(SHUTDOWN_SECONDS)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        dialect = self.engine.dialect
        if path in (dialect.metrics_path, dialect.json_metrics_path):
            return await self._faulty(request, "metrics") or self._metrics(path)
        if path == dialect.health_path or path in dialect.other_health_paths:
            return await self._faulty(request, "health") or self._health()
        if path in ("/v1/chat/completions", "/v1/completions", "/v1/models"):
            return await self._faulty(request, "api") or await self._api(request)
        return _error(404, f"no such path: {path}", "NotFoundError")

    async def _faulty(
        self, request: web.BaseRequest, area: Literal["metrics", "api", "health"]
    ) -> web.StreamResponse | None:
        """Answer in the engine's place, if its fault does."""
        fault = self.engine.fault
        match faults.answers(fault, area):
            case FaultKind.HTTP500:
                return _error(500, "internal server error", "InternalServerError")
            case FaultKind.NEVER_READY:
                return _error(503, "model is not loaded", "ServiceUnavailableError")
            case FaultKind.GARBAGE:
                return web.Response(body=faults.GARBAGE_BODY, headers={"Content-Type": EXPOSITION_CONTENT_TYPE})
            case FaultKind.REDIRECT:
                location = fault.location if fault is not None else ""
                return web.Response(status=302, headers={"Location": location})
            case FaultKind.SILENT:
                await asyncio.Event().wait()
            case FaultKind.INFINITE:
                response = web.StreamResponse(headers={"Content-Type": EXPOSITION_CONTENT_TYPE})
                await response.prepare(request)
                while True:
                    await response.write(faults.INFINITE_CHUNK)
                    await asyncio.sleep(0)
        return None

    def _metrics(self, path: str) -> web.Response:
        if path == self.engine.dialect.json_metrics_path:
            return web.Response(text=self.engine.iteration_stats(), content_type="application/json")
        return web.Response(body=self.engine.metrics_page().encode(), headers={"Content-Type": EXPOSITION_CONTENT_TYPE})

    def _health(self) -> web.Response:
        if self.engine.ready:
            return web.Response(status=200)
        return _error(503, "draining" if self.engine.draining else "loading model", "ServiceUnavailableError")

    async def _api(self, request: web.BaseRequest) -> web.StreamResponse:
        if not self.engine.ready:
            message = "draining" if self.engine.draining else "loading model"
            return _error(503, message, "ServiceUnavailableError", headers={"Retry-After": "1"})
        if request.path == "/v1/models":
            return web.json_response({"object": "list", "data": [self._model()]})
        if request.method != "POST":
            return _error(405, "use POST", "MethodNotAllowedError")
        try:
            completion = parse_completion(await request.read(), chat=request.path == "/v1/chat/completions")
        except BadRequest as error:
            return _error(400, str(error), "BadRequestError")
        engine = self.engine
        if engine.dialect.checks_model and completion.model not in (None, engine.model):
            return _error(404, f"The model `{completion.model}` does not exist.", "NotFoundError")
        # The body took time to read: the pod may have begun to drain meanwhile.
        if not engine.ready:
            return _error(503, "draining", "ServiceUnavailableError", headers={"Retry-After": "1"})
        try:
            stream = engine.submit(prompt_tokens=completion.prompt_tokens, output_tokens=completion.output_tokens)
        except TooLong as error:
            return _error(400, f"maximum context length exceeded: {error}", "BadRequestError")
        try:
            if completion.stream:
                return await self._stream(request, completion, stream)
            return await self._whole(completion, stream)
        finally:
            engine.release(stream)

    def _model(self) -> dict[str, Any]:
        return {
            "id": self.engine.model,
            "object": "model",
            "created": int(self.engine.started_at_unix),
            "owned_by": self.engine.name,
            "max_model_len": self.engine.profile.longest_sequence_tokens,
        }

    def _request_id(self, completion: CompletionRequest) -> str:
        return f"{'chatcmpl' if completion.chat else 'cmpl'}-{next(self._ids):08x}"

    async def _stream(
        self, request: web.BaseRequest, completion: CompletionRequest, stream: Stream
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        chunks = _Chunks(
            completion,
            stream,
            request_id=self._request_id(completion),
            model=self.engine.model,
            created=int(time.time()),
        )
        await response.prepare(request)
        sent = 0
        while sent < stream.output_tokens:
            await stream.wait_beyond(sent)
            if stream.tokens == sent:  # cut off: the client sees the connection close in mid-stream
                request.transport.abort()  # type: ignore[union-attr]
                return response
            # One write per wake-up: when the client lags, its tokens go out together.
            opening = chunks.role() if sent == 0 else b""
            await response.write(opening + b"".join(chunks.token(index) for index in range(sent, stream.tokens)))
            sent = stream.tokens
        await response.write((chunks.usage() if completion.include_usage else b"") + b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _whole(self, completion: CompletionRequest, stream: Stream) -> web.StreamResponse:
        while not stream.finished and not stream.cut:
            await stream.wait_beyond(stream.tokens)
        if not stream.finished:
            return _error(503, "the engine is shutting down", "ServiceUnavailableError")
        text = b"".join(_WORDS[index % len(_WORDS)] for index in range(stream.tokens)).decode()
        said = {"message": {"role": "assistant", "content": text}} if completion.chat else {"text": text}
        answer = {
            "id": self._request_id(completion),
            "object": "chat.completion" if completion.chat else "text_completion",
            "created": int(time.time()),
            "model": self.engine.model,
            "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": "length"}],
            "usage": _usage(stream.prompt_tokens, stream.output_tokens),
        }
        return web.json_response(answer)

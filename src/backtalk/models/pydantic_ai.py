"""The long tail of providers, as Pydantic AI speaks to them: Bedrock, Gemini, Cohere, Mistral, Hugging Face, and more.

It comes with the extra `providers`. Importing it takes about half a second, and each provider's SDK as much again: both
wait for the first request.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from mimetypes import guess_type
from typing import Any, cast

import msgspec

from backtalk.core.errors import (
    BacktalkError,
    FormatRefused,
    InvalidRequest,
    ModelNotFound,
    RateLimited,
    UpstreamError,
)
from backtalk.domain.items import Item, Part, is_user_message
from backtalk.domain.model import (
    Delta,
    Finish,
    Prompt,
    ReasoningDelta,
    RefusalDelta,
    SealedReasoning,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from backtalk.http.egress import ConnectionFailed, Egress
from backtalk.models.base import Upstream
from backtalk.models.calling import ModelServer
from backtalk.models.chat_body import chat_body
from backtalk.models.passages import Marks, Source
from backtalk.models.refusals import TOO_LONG

try:
    from pydantic_ai import exceptions as failures
    from pydantic_ai import messages as talk
    from pydantic_ai.direct import model_request_stream
    from pydantic_ai.models import Model as Provided
    from pydantic_ai.models import ModelRequestParameters, StreamedResponse, infer_model
    from pydantic_ai.output import OutputObjectDefinition
    from pydantic_ai.settings import ModelSettings, ThinkingLevel, ToolOrOutput
    from pydantic_ai.tools import ToolDefinition
except ImportError as missing:
    raise UpstreamError(
        'Model servers of the adapter "pydantic-ai" need an extra that is not installed. Whoever runs this server must '
        'pip install "backtalk[providers]" and start it again.'
    ) from missing

SEALED = "pydantic-ai:"
"""Begins `encrypted_content` that holds what a provider wants to see again of a thought whose text stands beside it."""
_MOST_KNOWN = 100
_OPENING = "Begin."
_GO_ON = "Go on."
_DATA_URL = re.compile(r"data:([^;,]*)[^,]*;base64,(.*)", re.DOTALL)
_AUDIO = {"mp3": "audio/mpeg"}
_SETTINGS = {
    "max_output_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "stop": "stop_sequences",
    "seed": "seed",
}
_TIERS = ("auto", "default", "flex", "priority")
_REASONS = {"length": "length", "tool_call": "tool_calls", "content_filter": "content_filter"}


class PydanticAI:
    """Models that Pydantic AI knows by names such as `bedrock:anthropic.claude-sonnet-5` or `cohere:command-a`.

    Keys come from the environment, under the names that Pydantic AI gives them, never from the upstream; calls go out by
    each provider's SDK, which has its own connections and retries, and not by our `Egress`. An upstream for each
    provider keeps their health apart: all models of one rest when it has failed.

    `structured`: JSON schemas go to models that keep to them by themselves, any other format is refused with
    FormatRefused. `find` makes a model of a name, in a thread: it may read files and import an SDK.
    """

    structured = True

    def __init__(self, upstream: Upstream, egress: Egress, find: Callable[[str], Provided] = infer_model) -> None:
        self.server = ModelServer(upstream, egress)
        self._find = find
        self._known: dict[str, Provided] = {}
        self._name = f"The model server '{upstream.name}'"

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        """As `Model.stream`: the deltas of one event of Pydantic AI's at a time. Closing it closes the provider's."""
        health = self.server.health
        async with health.call():
            model = await self._model(prompt.model)
            messages, sources = _messages(prompt)
            begun = False
            try:
                async with _opened(model, messages, prompt) as answer:
                    deltas = _Deltas(self._name, sources)
                    async for event in answer:
                        if out := deltas.feed(event):
                            if not begun:
                                begun = True
                                health.succeeded()
                            yield out
                    yield deltas.finish(answer)
                    health.succeeded()
            except (failures.AgentRunError, failures.UserError, NotImplementedError) as error:
                ours = _error(error, self._name, prompt)
                health.failed(ours)
                raise ours from error
            except BacktalkError as error:
                health.failed(error)
                raise

    async def _model(self, name: str) -> Provided:
        """The model of a name. What its provider lacks here, a key or an SDK, is said and no failure of its."""
        if name not in self._known:
            try:
                found = await asyncio.to_thread(self._find, name)
            except (failures.UserError, ImportError, ValueError) as error:
                if str(error).startswith("Unknown model"):
                    raise ModelNotFound(name) from error
                raise UpstreamError(f"{self._name} cannot call '{name[:128]}': {error}") from error
            if len(self._known) >= _MOST_KNOWN:  # clients choose the names
                self._known.clear()
            self._known[name] = found
        return self._known[name]


def _opened(model: Provided, messages: list[talk.ModelMessage], prompt: Prompt) -> Any:
    """The context of a stream. Raises FormatRefused for a format that the model does not keep to by itself."""
    parameters = ModelRequestParameters(
        function_tools=[
            ToolDefinition(
                name=tool.name,
                parameters_json_schema=tool.parameters or {"type": "object", "properties": {}},
                description=tool.description or None,
                strict=tool.strict,
            )
            for tool in prompt.tools
        ]
    )
    form = prompt.text_format or {}
    kind = form.get("type", "text")
    if kind == "json_schema" and model.profile.get("supports_json_schema_output"):
        parameters.output_mode = "native"
        parameters.output_object = OutputObjectDefinition(
            form["schema"], form.get("name"), form.get("description"), form.get("strict")
        )
    elif kind != "text":
        raise FormatRefused(f"The model '{prompt.model}' takes no such format.", param="text.format")
    return model_request_stream(
        model,
        model.prepare_messages(messages, parameters),
        model_settings=_settings(prompt),
        model_request_parameters=parameters,
    )


# ── the prompt ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _messages(prompt: Prompt) -> tuple[list[talk.ModelMessage], list[Source]]:
    """The talk, in the order that Chat Completions demands, which is any provider's; and the files behind the numbers of
    its passages. A user has the first word and the last."""
    body, sources = chat_body(prompt)
    thoughts = _thoughts(prompt.items)
    names: dict[str, str] = {}
    messages: list[talk.ModelMessage] = []
    for message in body["messages"]:
        if message["role"] == "assistant":
            _last(messages, talk.ModelResponse).extend(_said(message, names, thoughts))
        else:
            _last(messages, talk.ModelRequest).append(_asked(message, names))
    if not messages or not isinstance(messages[0], talk.ModelRequest):
        messages.insert(0, talk.ModelRequest([talk.UserPromptPart(_OPENING)]))
    if isinstance(messages[-1], talk.ModelResponse) or isinstance(messages[-1].parts[-1], talk.SystemPromptPart):
        _last(messages, talk.ModelRequest).append(talk.UserPromptPart(_GO_ON))
    return messages, sources


def _last(messages: list[talk.ModelMessage], kind: type[talk.ModelRequest] | type[talk.ModelResponse]) -> list[Any]:
    """The parts of the last message, if it is of this kind, else of a new one."""
    if not messages or not isinstance(messages[-1], kind):
        messages.append(kind(parts=[]))
    return cast(list[Any], messages[-1].parts)


def _asked(message: dict[str, Any], names: dict[str, str]) -> talk.ModelRequestPart:
    content = message["content"]
    if message["role"] == "tool":
        call_id = message["tool_call_id"]
        return talk.ToolReturnPart(names[call_id], content, call_id)
    if isinstance(content, list):
        return talk.UserPromptPart(list(map(_content, content)))
    return talk.SystemPromptPart(content) if message["role"] == "system" else talk.UserPromptPart(content)


def _said(
    message: dict[str, Any], names: dict[str, str], thoughts: dict[str, list[talk.ThinkingPart]]
) -> Iterator[talk.ModelResponsePart]:
    """Thoughts come first: that is where those that sign them look."""
    calls = message.get("tool_calls") or ()
    for call in calls:
        yield from thoughts.get(call["id"], ())
    if message["content"]:
        yield talk.TextPart(message["content"])
    for call in calls:
        names[call["id"]] = call["function"]["name"]
        yield talk.ToolCallPart(names[call["id"]], call["function"]["arguments"], call["id"])


def _thoughts(items: Sequence[Item]) -> dict[str, list[talk.ThinkingPart]]:
    """What the model thought before its calls of this turn, by the id of the call: elsewhere nobody asks for it."""
    turn = max((place for place, item in enumerate(items) if is_user_message(item)), default=-1)
    found: dict[str, list[talk.ThinkingPart]] = {}
    waiting: list[talk.ThinkingPart] = []
    for item in items[turn + 1 :]:
        kind = item.get("type", "message")
        if kind == "reasoning" and (item.get("encrypted_content") or "").startswith(SEALED):
            text = "".join(part.get("text") or "" for part in item.get("content") or ())
            waiting.append(talk.ThinkingPart(text, **_unsealed(item["encrypted_content"])))
        elif kind.endswith("_call") and waiting:
            found[item.get("call_id") or item["id"]] = waiting
            waiting = []
    return found


def _unsealed(data: str) -> dict[str, Any]:
    """What was sealed of a thought; nothing of what a client has made up."""
    try:
        found = msgspec.json.decode(base64.b64decode(data.removeprefix(SEALED)), type=_Seal)
    except (msgspec.DecodeError, binascii.Error, UnicodeDecodeError, RecursionError):
        return {}
    return msgspec.structs.asdict(found)


class _Seal(msgspec.Struct, omit_defaults=True):
    """The fields of a thought that only its provider understands."""

    provider_name: str | None = None
    id: str | None = None
    signature: str | None = None
    provider_details: dict[str, Any] | None = None


def _content(part: Part) -> talk.UserContent:
    match part["type"]:
        case "image_url":
            image = part["image_url"]
            more = {"detail": image["detail"]} if image.get("detail") else None
            if image["url"].startswith("data:"):
                return _binary(image["url"], vendor_metadata=more)
            return talk.ImageUrl(image["url"], vendor_metadata=more)
        case "input_audio":
            form = part["input_audio"]["format"]
            return _binary(f"data:{_AUDIO.get(form, f'audio/{form}')};base64,{part['input_audio']['data']}")
        case "file":
            file = part["file"]
            return _binary(file["file_data"], file["filename"])
    return cast(str, part["text"])


def _binary(url: str, name: str = "", vendor_metadata: dict[str, Any] | None = None) -> talk.BinaryContent:
    found = _DATA_URL.match(url)
    try:
        data = base64.b64decode(found[2]) if found else b""
    except binascii.Error:
        data = b""
    if not (found and data):
        raise InvalidRequest("What is sent as a data: URL must be base64.", param="input")
    media_type = found[1] or guess_type(name)[0] or "application/octet-stream"
    return talk.BinaryContent(data, media_type=media_type, identifier=name or None, vendor_metadata=vendor_metadata)


def _settings(prompt: Prompt) -> ModelSettings:
    made: dict[str, Any] = {
        theirs: value for ours, theirs in _SETTINGS.items() if (value := getattr(prompt, ours)) is not None
    }
    if prompt.tools:
        made["tool_choice"] = _tool_choice(prompt)
        if not prompt.parallel_tool_calls:
            made["parallel_tool_calls"] = False
    if (thinking := _thinking(prompt)) is not None:
        made["thinking"] = thinking
    if prompt.service_tier in _TIERS:
        made["service_tier"] = prompt.service_tier
    return cast(ModelSettings, made)


def _tool_choice(prompt: Prompt) -> str | list[str] | ToolOrOutput:
    choice, allowed = prompt.tool_choice, prompt.allowed_tools
    if choice not in ("auto", "none", "required"):
        return [choice]
    if allowed is None or choice == "none":
        return choice
    return allowed if choice == "required" else ToolOrOutput(allowed)


def _thinking(prompt: Prompt) -> ThinkingLevel | None:
    if prompt.reasoning_tokens is not None:
        return prompt.reasoning_tokens > 0
    return False if prompt.reasoning_effort == "none" else cast(ThinkingLevel | None, prompt.reasoning_effort)


# ── the answer ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _Deltas:
    """Turns events into deltas. Where the text says `[2]`, a citation of the second of `sources` follows."""

    def __init__(self, server: str, sources: Sequence[Source]) -> None:
        self._server = server
        self._marks = Marks(sources) if sources else None
        self._calls: dict[int, int] = {}  # numbers of calls, by the index of their part
        self._written: set[int] = set()  # those whose arguments have begun to come

    def feed(self, event: talk.ModelResponseStreamEvent) -> list[Delta]:
        """The deltas of an event, often none."""
        match event:
            case talk.PartStartEvent(part=talk.ToolCallPart() as call):
                number = self._calls[event.index] = len(self._calls)
                begun = ToolCallDelta(number, call_id=call.tool_call_id, name=call.tool_name)
                return [begun, *self._arguments(event.index, call.args)]
            case talk.PartDeltaEvent(delta=talk.ToolCallPartDelta(args_delta=more)):
                return self._arguments(event.index, more)
            case talk.PartStartEvent(part=talk.TextPart(content=text)):
                return self._text(text)
            case talk.PartDeltaEvent(delta=talk.TextPartDelta(content_delta=text)):
                return self._text(text)
            case talk.PartStartEvent(part=talk.ThinkingPart(content=thought)):
                return [ReasoningDelta(thought)] if thought else []
            case talk.PartDeltaEvent(delta=talk.ThinkingPartDelta(content_delta=thought)):
                return [ReasoningDelta(thought)] if thought else []
            case talk.PartEndEvent(part=talk.ThinkingPart() as whole):
                return _sealed(whole)
        return []

    def finish(self, answer: StreamedResponse) -> list[Delta]:
        """The last deltas. Raises UpstreamError when the stream ended before the model did."""
        whole = answer.get()
        if whole.state != "complete" or whole.finish_reason == "error":
            said = "ended its stream before the answer was complete"
            raise UpstreamError(f"{self._server} {said}.", reason="upstream_protocol_error")
        out: list[Delta] = []
        for index, number in self._calls.items():
            if index not in self._written:
                out.append(ToolCallDelta(number, cast(talk.ToolCallPart, whole.parts[index]).args_as_json_str()))
        if refused := (whole.provider_details or {}).get("refusal"):
            out.append(RefusalDelta(str(refused)))
        reason = _REASONS.get(whole.finish_reason or "", "stop")
        if self._calls and reason == "stop":
            reason = "tool_calls"
        return [*out, Finish("stop" if refused else reason, _usage(whole))]

    def _text(self, text: str) -> list[Delta]:
        if not text:
            return []
        return [TextDelta(text), *(self._marks.citations(text) if self._marks else ())]

    def _arguments(self, index: int, given: str | dict[str, Any] | None) -> list[Delta]:
        """Pieces of JSON. An object is not sent before it is whole, at the end, for more may be put into it."""
        if not (given and isinstance(given, str) and index in self._calls):
            return []
        self._written.add(index)
        return [ToolCallDelta(self._calls[index], given)]


def _sealed(thought: talk.ThinkingPart) -> list[Delta]:
    """What must be handed back with a thought, if there is any."""
    if not (thought.signature or thought.id or thought.provider_details):
        return []
    seal = _Seal(thought.provider_name, thought.id, thought.signature, thought.provider_details)
    return [SealedReasoning(SEALED + base64.b64encode(msgspec.json.encode(seal, enc_hook=str)).decode())]


def _usage(whole: talk.ModelResponse) -> Usage | None:
    used = whole.usage
    if not (used.input_tokens or used.output_tokens):
        return None
    return Usage(
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cached_tokens=used.cache_read_tokens,
        cache_write_tokens=used.cache_write_tokens,
        reasoning_tokens=used.output_reasoning_tokens,
    )


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _error(error: Exception, where: str, prompt: Prompt) -> BacktalkError:
    """Pydantic AI's error as ours."""
    formatted = (prompt.text_format or {}).get("type", "text") != "text"
    match error:
        case failures.ModelHTTPError():
            return _refused(error, where, prompt.model, formatted)
        case failures.ModelTimeoutError() | failures.ModelRequestTimeout():
            return UpstreamError(f"{where} did not answer in time.", reason="upstream_timeout", status=504)
        case failures.ModelConnectionError():
            return ConnectionFailed(f"{where} cannot be reached, or broke off: {error}", reason="upstream_unavailable")
        case failures.ModelAPIError() | failures.AgentRunError():
            return UpstreamError(f"{where} failed: {error}")
    if formatted:  # a UserError, before anything was sent: as good as any provider's no
        return FormatRefused(str(error), param="text.format")
    return InvalidRequest(f"The model '{prompt.model}' does not take this: {error}")


def _refused(error: failures.ModelHTTPError, where: str, model: str, formatted: bool) -> BacktalkError:
    said = _message(error.body) or f"it answered with status {error.status_code}"
    match error.status_code:
        case 400 | 413 | 422:
            if TOO_LONG.search(said) or isinstance(error, failures.ModelContextWindowExceededError):
                return InvalidRequest(said, code="context_length_exceeded")
            return FormatRefused(said, param="text.format") if formatted else InvalidRequest(said)
        case 401 | 403:
            return UpstreamError(
                f"{where} refused the key that this server's environment holds for it ({error.status_code}). "
                "Whoever runs this server must set a valid key for it."
            )
        case 404:
            return ModelNotFound(model)
        case 429:
            return RateLimited(f"{where} limits the rate of requests: {said}", retry_after=error.retry_after or 1.0)
    return UpstreamError(f"{where} failed: {said}", status=503 if error.status_code in (503, 529) else 502)


def _message(body: object) -> str:
    """What an error's body says, whatever its shape."""
    if isinstance(body, list) and body:
        body = body[0]
    if isinstance(body, dict):
        inner = body.get("error", body)
        found = inner if not isinstance(inner, dict) else inner.get("message") or inner.get("Message") or ""
        return str(found)
    return body if isinstance(body, str) else ""

"""A prompt as the body of a Chat Completions request."""

from typing import Any

from backtalk.domain.items import Item, Part
from backtalk.domain.model import Prompt, Tool
from backtalk.models.chat_parts import UNANSWERED, content, other_call, plain, returned, written
from backtalk.models.passages import Source, told

_BESIDES = "What the tool returned besides text:"
_SETTINGS = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "stop",
    "seed",
    "reasoning_effort",
    "verbosity",
    "user",
)


def chat_body(
    prompt: Prompt, *, max_tokens: str = "max_tokens", native: bool = False
) -> tuple[dict[str, Any], list[Source]]:
    """The request's body, and the files behind the numbers of its passages.

    `max_tokens` is the server's name for the limit of the output: OpenAI itself wants `max_completion_tokens`, most
    others know only the older `max_tokens`.
    """
    messages = _Messages(prompt.instructions)
    for item in prompt.items:
        messages.add(item)
    body: dict[str, Any] = {
        "model": prompt.model,
        "messages": messages.finish(),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body.update(_tools(prompt, native))
    body.update((name, value) for name in _SETTINGS if (value := getattr(prompt, name)) is not None)
    if prompt.max_output_tokens is not None:
        body[max_tokens] = prompt.max_output_tokens
    if prompt.service_tier not in (None, "auto", "default"):
        body["service_tier"] = prompt.service_tier
    if native:  # strict servers refuse what they do not know
        kept = {"prompt_cache_key": prompt.cache_key, "prompt_cache_retention": prompt.cache_retention}
        body.update((name, value) for name, value in kept.items() if value is not None)
    if prompt.logprobs is not None:
        body["logprobs"] = True
    if prompt.logprobs:
        body["top_logprobs"] = prompt.logprobs
    if response_format := _response_format(prompt.text_format):
        body["response_format"] = response_format
    return body, messages.sources


class _Messages:
    """Puts items in the order that Chat Completions demands: calls in one message, their outputs right behind it."""

    def __init__(self, instructions: str | None) -> None:
        self.sources: list[Source] = []
        self._messages: list[dict[str, Any]] = []
        self._open: dict[str, None] = {}  # ids of calls without an output, in order
        self._calling: dict[str, Any] = {}  # the message that made them
        self._unanswered: dict[str, dict[str, Any]] = {}  # what stands in for outputs that may come late
        self._rest: list[Part] = []  # what tools returned besides text
        if instructions:
            self._messages.append({"role": "system", "content": instructions})

    def add(self, item: Item) -> None:
        match item.get("type", "message"):
            case "message":
                self._message(item)
            case "function_call":
                self._call(item["call_id"], item["name"], item.get("arguments") or "{}")
            case "custom_tool_call":
                self._call(item["call_id"], item["name"], written({"input": item.get("input") or ""}))
            case "file_search_call":
                self._file_search(item)
            case "mcp_call":
                self._call(item["id"], item["name"], item.get("arguments") or "{}")
                self._answer(item["id"], written(item.get("output") or item.get("error")))
            case str(kind) if kind.endswith("_call"):
                self._other_call(item, kind.removesuffix("_call"))
            case str(kind) if kind.endswith("_output"):
                self._output(item)
            case _:  # reasoning, approvals and the like have no place in this wire
                pass

    def finish(self) -> list[dict[str, Any]]:
        self._settle()
        return self._messages

    def _message(self, item: Item) -> None:
        role = "system" if item["role"] == "developer" else item["role"]
        if role == "assistant":
            self._assistant(plain(item))
            return
        self._settle()
        self._messages.append({"role": role, "content": content(item)})

    def _assistant(self, text: str) -> None:
        if self._open:
            self._calling["content"] = (self._calling["content"] or "") + text
        else:
            self._settle()
            self._messages.append({"role": "assistant", "content": text})

    def _call(self, call_id: str, name: str, arguments: str) -> None:
        if not self._open:
            self._settle()
            if not self._messages or self._messages[-1]["role"] != "assistant":
                self._messages.append({"role": "assistant", "content": None})
            self._calling = self._messages[-1]
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        self._calling.setdefault("tool_calls", []).append(call)
        self._open[call_id] = None

    def _other_call(self, item: Item, name: str) -> None:
        """A tool that this wire has no form for, told as a function. One that ran where the model was is answered."""
        call_id, arguments, answer = other_call(item)
        self._call(call_id, name, arguments)
        if answer is not None:
            self._answer(call_id, answer)

    def _output(self, item: Item) -> None:
        """Answers a call with text, which is all that a tool's message takes. Servers refuse an answer to no call."""
        call_id = item.get("call_id") or item.get("id") or ""
        if call_id in self._open:
            answer = self._answer(call_id)
        elif call_id in self._unanswered:
            answer = self._unanswered.pop(call_id)
        else:
            return
        answer["content"], rest = returned(item)
        self._rest += rest

    def _answer(self, call_id: str, text: str = UNANSWERED) -> dict[str, Any]:
        self._open.pop(call_id, None)
        answer = {"role": "tool", "tool_call_id": call_id, "content": text}
        self._messages.append(answer)
        return answer

    def _file_search(self, item: Item) -> None:
        """What a client sends back of a search has no results, as it was never shown any: nothing to tell."""
        results = item.get("results")
        if results is None:
            return
        self._call(item["id"], "file_search", written({"queries": item.get("queries") or []}))
        self._answer(item["id"], told(results, self.sources))

    def _settle(self) -> None:
        """Ends a group of calls: none may stay open, and only behind the last answer is room for another message."""
        for call_id in list(self._open):
            self._unanswered[call_id] = self._answer(call_id)
        if self._rest:
            self._messages.append({"role": "user", "content": [{"type": "text", "text": _BESIDES}, *self._rest]})
            self._rest = []


def _tools(prompt: Prompt, native: bool) -> dict[str, Any]:
    if not prompt.tools:
        return {}
    body: dict[str, Any] = {"tools": [_tool(tool) for tool in prompt.tools]}
    choice: Any = prompt.tool_choice
    if choice not in ("auto", "none", "required"):
        choice = _named(choice)
    elif native and prompt.allowed_tools is not None and choice != "none":
        allowed = {"mode": choice, "tools": list(map(_named, prompt.allowed_tools))}
        choice = {"type": "allowed_tools", "allowed_tools": allowed}
    if choice != "auto":
        body["tool_choice"] = choice
    if not prompt.parallel_tool_calls:
        body["parallel_tool_calls"] = False
    return body


def _named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters or {"type": "object", "properties": {}},
    }
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _response_format(text_format: dict[str, Any] | None) -> dict[str, Any] | None:
    kind = text_format["type"] if text_format else "text"
    if text_format and kind == "json_schema":
        given = {name: value for name, value in text_format.items() if name != "type" and value is not None}
        return {"type": kind, kind: given}
    return None if kind == "text" else {"type": kind}

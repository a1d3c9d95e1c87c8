"""A prompt as the body of a Responses request: the items nearly as they are, without what only we know of them."""

import re
from typing import Any

from backtalk.core.errors import InvalidRequest
from backtalk.domain.items import Item, Part
from backtalk.domain.model import Prompt, Tool
from backtalk.models.chat_parts import UNANSWERED, is_part, plain, written
from backtalk.models.passages import Source, told

_SETTINGS = {
    "instructions": "instructions",
    "temperature": "temperature",
    "top_p": "top_p",
    "service_tier": "service_tier",
    "prompt_cache_key": "cache_key",
    "prompt_cache_retention": "cache_retention",
    "safety_identifier": "user",
}
_LEAST = 16
"""OpenAI refuses a lower limit of tokens, which may well be what a turn has left for its last step."""
_THINKS = re.compile(r"(^|[:/])(o\d|gpt-5(?!.*chat))")
_ENCRYPTED = "reasoning.encrypted_content"
_LOGPROBS = "message.output_text.logprobs"
_FILE_FIELDS = ("filename", "file_data", "file_url", "detail")


def responses_body(prompt: Prompt, *, mark: str, openai: bool = False) -> tuple[dict[str, Any], list[Source]]:
    """The request's body, and the files behind the numbers of its passages.

    `mark` begins the sealed thinking that this server can read. `openai` tells that it is OpenAI's own, whose models
    and limits are known. What the wire has no place for (`stop`, `seed`, penalties) is left out.
    """
    entries = _Input(mark)
    for item in prompt.items:
        entries.add(item)
    body: dict[str, Any] = {"model": prompt.model, "input": entries.finish(), "stream": True, "store": False}
    body.update((name, value) for name, field in _SETTINGS.items() if (value := getattr(prompt, field)) is not None)
    body.update(_tools(prompt, openai))
    if prompt.max_output_tokens is not None:
        body["max_output_tokens"] = max(prompt.max_output_tokens, _LEAST) if openai else prompt.max_output_tokens
    if prompt.logprobs:
        body["top_logprobs"] = prompt.logprobs
    parts = {"text": _text(prompt), "reasoning": _reasoning(prompt), "include": _include(prompt, openai)}
    body.update((name, value) for name, value in parts.items() if value)
    return body, entries.sources


class _Input:
    """The input's items. Every call gets an output and every output has a call, as servers demand."""

    def __init__(self, mark: str) -> None:
        self.sources: list[Source] = []
        self._mark = mark
        self._items: list[Item] = []
        self._open: dict[str, int] = {}  # calls without an output, and where they stand
        self._thoughts: list[Item] = []  # thinking is told before what came of it, or not at all

    def add(self, item: Item) -> None:
        match item.get("type", "message"):
            case "message":
                self._message(item)
            case "reasoning":
                self._reasoning(item)
            case "function_call":
                self._call(item["call_id"], item["name"], item.get("arguments") or "{}")
            case "custom_tool_call":
                self._call(item["call_id"], item["name"], written({"input": item.get("input") or ""}))
            case "function_call_output" | "custom_tool_call_output":
                self._output(item.get("call_id") or "", _output(item.get("output")))
            case "file_search_call":
                self._file_search(item)
            case _:  # tools of somebody's server, which this one may not know
                pass

    def finish(self) -> list[Item]:
        """All items. A call that nobody answered is answered right behind it."""
        for call_id, at in reversed(self._open.items()):
            self._items.insert(at + 1, _answer(call_id, UNANSWERED))
        return self._items

    def _message(self, item: Item) -> None:
        role = item["role"]
        if role != "assistant":
            self._thoughts.clear()
            self._items.append({"type": "message", "role": role, "content": _content(item.get("content"))})
        elif said := _said(item):
            message = {"type": "message", "role": role, "content": said}
            if item.get("phase"):
                message["phase"] = item["phase"]
            self._made(message)

    def _reasoning(self, item: Item) -> None:
        sealed = item.get("encrypted_content") or ""
        if sealed.startswith(self._mark):
            thought = {"type": "reasoning", "summary": item.get("summary") or []}
            self._thoughts.append({**thought, "encrypted_content": sealed.removeprefix(self._mark)})

    def _call(self, call_id: str, name: str, arguments: str) -> None:
        self._made({"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments})
        self._open[call_id] = len(self._items) - 1

    def _output(self, call_id: str, output: str | list[Part]) -> None:
        self._thoughts.clear()
        if self._open.pop(call_id, None) is not None:
            self._items.append(_answer(call_id, output))

    def _made(self, item: Item) -> None:
        """An item of the model's, behind its thinking."""
        self._items += [*self._thoughts, item]
        self._thoughts.clear()

    def _file_search(self, item: Item) -> None:
        """What a client sends back of a search has no results, as it was never shown any: nothing to tell."""
        results = item.get("results")
        if results is not None:
            self._call(item["id"], "file_search", written({"queries": item.get("queries") or []}))
            self._output(item["id"], told(results, self.sources))


def _answer(call_id: str, output: str | list[Part]) -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def _said(item: Item) -> str | list[Part]:
    """What the assistant said: a string, which every server takes, or parts where it refused."""
    content = item.get("content")
    parts = content if isinstance(content, list) else ()
    if not any(part.get("refusal") for part in parts):
        return plain(item)
    return [_refused(part["refusal"]) if part.get("refusal") else _spoken(part.get("text") or "") for part in parts]


def _refused(text: str) -> Part:
    return {"type": "refusal", "refusal": text}


def _spoken(text: str) -> Part:
    return {"type": "output_text", "text": text, "annotations": []}


def _content(content: Any) -> str | list[Part]:
    return [_part(part) for part in content] if isinstance(content, list) else content or ""


def _output(output: Any) -> str | list[Part]:
    """What a tool returned: text or parts; whatever else as JSON."""
    if output and isinstance(output, list) and all(map(is_part, output)):
        return [_part(part) for part in output]
    return written(output)


def _part(part: Part) -> Part:
    match part.get("type"):
        case "input_image" | "computer_screenshot" if part.get("image_url"):
            return {"type": "input_image", "image_url": part["image_url"], "detail": part.get("detail") or "auto"}
        case "input_image" | "computer_screenshot":
            raise InvalidRequest("An image needs an 'image_url': https:// or a data: URL.", param="input")
        case "input_file" if part.get("file_data") or part.get("file_url"):
            return {"type": "input_file", **{name: part[name] for name in _FILE_FIELDS if part.get(name)}}
        case "input_audio":
            return {"type": "input_audio", "input_audio": part["input_audio"]}
        case kind if "text" not in part:
            raise InvalidRequest(f"This model server takes no '{kind}' as input. Send it as text.", param="input")
    return {"type": "input_text", "text": part["text"]}


def _tools(prompt: Prompt, openai: bool) -> dict[str, Any]:
    if not prompt.tools:
        return {}
    body: dict[str, Any] = {"tools": [_tool(tool) for tool in prompt.tools]}
    choice: Any = prompt.tool_choice
    if choice not in ("auto", "none", "required"):
        choice = _named(choice)
    elif openai and prompt.allowed_tools is not None and choice != "none":
        choice = {"type": "allowed_tools", "mode": choice, "tools": list(map(_named, prompt.allowed_tools))}
    if choice != "auto":
        body["tool_choice"] = choice
    if not prompt.parallel_tool_calls:
        body["parallel_tool_calls"] = False
    return body


def _named(name: str) -> dict[str, Any]:
    return {"type": "function", "name": name}


def _tool(tool: Tool) -> dict[str, Any]:
    """Where `strict` is left out, servers of this wire make a schema strict if they can."""
    strict = {} if tool.strict is None else {"strict": tool.strict}
    parameters = tool.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "name": tool.name, "description": tool.description, "parameters": parameters, **strict}


def _text(prompt: Prompt) -> dict[str, Any]:
    form = {name: value for name, value in (prompt.text_format or {}).items() if value is not None}
    text: dict[str, Any] = {"format": form} if form.get("type", "text") != "text" else {}
    if prompt.verbosity is not None:
        text["verbosity"] = prompt.verbosity
    return text


def _reasoning(prompt: Prompt) -> dict[str, Any]:
    wanted = {"effort": prompt.reasoning_effort, "summary": prompt.reasoning_summary}
    return {name: value for name, value in wanted.items() if value is not None}


def _include(prompt: Prompt, openai: bool) -> list[str]:
    """Sealed thinking is asked of models that think: others refuse the whole request for it."""
    include = []
    if _reasoning(prompt) or (openai and _THINKS.search(prompt.model)):
        include.append(_ENCRYPTED)
    if prompt.logprobs is not None:
        include.append(_LOGPROBS)
    return include

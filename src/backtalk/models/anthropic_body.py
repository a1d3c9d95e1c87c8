"""A prompt as the body of an Anthropic Messages request."""

import base64
import binascii
import re
from collections.abc import Iterable
from mimetypes import guess_type
from typing import Any, TypeAlias

import msgspec

from backtalk.core.errors import InvalidRequest
from backtalk.domain.items import Item, Part, is_user_message, text_of
from backtalk.domain.model import Prompt, Tool
from backtalk.models.anthropic_events import REDACTED, SEALED
from backtalk.models.chat_parts import UNANSWERED, is_part, other_call, written
from backtalk.models.passages import Source, told

Block: TypeAlias = dict[str, Any]

_OPENING = "Begin."
_GO_ON = "Go on."
_NOTE = "System note: "
_SYSTEM = ("system", "developer")
_NO_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_DATA_URL = re.compile(r"data:([^;,]*)[^,]*;base64,(.*)", re.DOTALL)
_VERSION = re.compile(r"claude-(?:[a-z]+-)*(\d+)(?:[-.](\d{1,2}))?(?!\d)")

_OUTPUT_TOKENS = 8192
_LEAST_BUDGET = 1024
_BUDGETS = {"low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768, "max": 32768}
"""Tokens of thinking for an effort."""
_LEAST_TOP_P = 0.95
"""Below it, a model that thinks takes no `top_p`."""
_ADAPTIVE = (4, 6)
"""The first that decide themselves how long they think. Earlier ones are given a budget, later ones take none."""
_WITH_XHIGH = _WITHOUT_SAMPLING = (4, 7)
_THINKS_UNASKED = (5, 0)
_NEWEST = (999, 0)
_TIERS = {"auto": "auto", "priority": "auto", "default": "standard_only"}


def anthropic_body(prompt: Prompt) -> tuple[dict[str, Any], list[Source]]:
    """The request's body, and the files behind the numbers of its passages."""
    messages = _Messages()
    if prompt.instructions:
        messages.system.append({"type": "text", "text": prompt.instructions})
    turn = max((place for place, item in enumerate(prompt.items) if is_user_message(item)), default=-1)
    for place, item in enumerate(prompt.items):
        messages.add(item, current=place > turn)
    body: dict[str, Any] = {"model": prompt.model, "messages": messages.finish(), "stream": True}
    if messages.system:
        body["system"] = messages.system
    body.update(_tools(prompt, messages.called))
    body.update(_thinking(prompt, body["messages"]))
    if prompt.text_format and prompt.text_format["type"] == "json_schema":
        form = {"type": "json_schema", "schema": prompt.text_format["schema"]}
        body["output_config"] = {**body.get("output_config", {}), "format": form}
    body.update(_sampling(prompt, "thinking" in body and body["thinking"]["type"] != "disabled"))
    if stop := [one for one in prompt.stop or () if one.strip()]:
        body["stop_sequences"] = stop
    if prompt.user:
        body["metadata"] = {"user_id": prompt.user}
    if tier := _TIERS.get(prompt.service_tier or ""):
        body["service_tier"] = tier
    return body, messages.sources


def version(model: str) -> tuple[int, int]:
    """The generation of a Claude: (4, 5). One without a number is the newest; (0, 0) is none of them at all."""
    if found := _VERSION.search(model):
        return int(found[1]), int(found[2] or 0)
    return _NEWEST if "claude-" in model else (0, 0)


class _Messages:
    """Puts items in the order that Anthropic demands: user and assistant in turn, results right behind their calls."""

    def __init__(self) -> None:
        self.system: list[Block] = []
        self.sources: list[Source] = []
        self.called: dict[str, None] = {}  # names of functions
        self._messages: list[dict[str, Any]] = []
        self._asked = False  # a user has said something
        self._ids: set[str] = set()
        self._calling: list[Block] = []  # the message that made the open calls
        self._open: dict[str, str] = {}  # calls without a result, and the ids that they have here
        self._late: dict[str, Block] = {}  # what stands in for results that may come late

    def add(self, item: Item, *, current: bool) -> None:
        """`current`: it belongs to the turn that is being answered."""
        match item.get("type", "message"):
            case "message":
                self._message(item)
            case "reasoning" if current:
                self._thought(item)
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
            case _:  # approvals and the like have no place in this wire
                pass

    def finish(self) -> list[dict[str, Any]]:
        """The messages. A user has the first word and the last: newer models go on with nobody's half sentence."""
        self._settle()
        if not self._messages or self._messages[0]["role"] != "user":
            self._messages.insert(0, {"role": "user", "content": [{"type": "text", "text": _OPENING}]})
        if self._messages[-1]["role"] != "user":
            self._last("user").append({"type": "text", "text": _GO_ON})
        return self._messages

    def _message(self, item: Item) -> None:
        role, said = item["role"], _said(item)
        if not said:  # an empty message would be refused
            return
        if role == "assistant":
            self._assistant().extend(said)
            return
        self._settle()
        if role not in _SYSTEM:
            self._last("user").extend(said)
            self._asked = True
        elif self._asked:
            self._last("user").append({"type": "text", "text": _NOTE + text_of(item)})
        else:
            self.system += said

    def _last(self, role: str) -> list[Block]:
        """The last message, if it is of this role, else a new one. Something must be put into it."""
        if not self._messages or self._messages[-1]["role"] != role:
            self._messages.append({"role": role, "content": []})
        content: list[Block] = self._messages[-1]["content"]
        return content

    def _assistant(self) -> list[Block]:
        """What the assistant is saying: the message whose calls are open, or the last one."""
        if not self._open:
            self._calling = self._last("assistant")
        return self._calling

    def _thought(self, item: Item) -> None:
        """Thinking goes back, unchanged, to the server that has signed it."""
        sealed = item.get("encrypted_content") or ""
        if sealed.startswith(SEALED):
            block = {"type": "thinking", "thinking": _thinking_of(item), "signature": sealed.removeprefix(SEALED)}
        elif sealed.startswith(REDACTED):
            block = {"type": "redacted_thinking", "data": sealed.removeprefix(REDACTED)}
        else:
            return
        self._assistant().append(block)

    def _call(self, call_id: str, name: str, arguments: str) -> None:
        if call_id in self._open:
            self._answer(call_id)
        calling, name = self._assistant(), _NO_NAME.sub("_", name)
        made = self._open[call_id] = self._id(call_id)
        self.called[name] = None
        calling.append({"type": "tool_use", "id": made, "name": name, "input": _input(arguments)})

    def _id(self, call_id: str) -> str:
        """Ids of other servers may hold other characters, and come again."""
        made = base = _NO_NAME.sub("_", call_id) or "call"
        while made in self._ids:
            made = f"{base}_{len(self._ids)}"
        self._ids.add(made)
        return made

    def _other_call(self, item: Item, name: str) -> None:
        """A tool that this wire has no form for, told as a function. One that ran where the model was is answered."""
        call_id, arguments, answer = other_call(item)
        self._call(call_id, name, arguments)
        if answer is not None:
            self._answer(call_id, answer)

    def _output(self, item: Item) -> None:
        """Answers a call. A result of no call would be refused."""
        call_id = item.get("call_id") or item.get("id") or ""
        if call_id in self._open:
            result = self._answer(call_id)
        elif call_id in self._late:
            result = self._late.pop(call_id)
        else:
            return
        result["content"] = _returned(item)
        for block in result["content"]:
            if marker := block.pop("cache_control", None):  # only the result as a whole can be cached
                result["cache_control"] = marker

    def _answer(self, call_id: str, text: str = UNANSWERED) -> Block:
        result = {"type": "tool_result", "tool_use_id": self._open.pop(call_id), "content": _text(text)}
        self._last("user").append(result)
        return result

    def _file_search(self, item: Item) -> None:
        """What a client sends back of a search has no results, as it was never shown any: nothing to tell."""
        results = item.get("results")
        if results is None:
            return
        self._call(item["id"], "file_search", written({"queries": item.get("queries") or []}))
        self._answer(item["id"], told(results, self.sources))

    def _settle(self) -> None:
        """Ends a group of calls: none may stay open when another message comes."""
        for call_id in list(self._open):
            self._late[call_id] = self._answer(call_id)


# ── blocks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _said(item: Item) -> list[Block]:
    content = item.get("content")
    if not isinstance(content, list):
        return _text(content or "")
    return [block for part in content for block in _blocks(part)]


def _returned(item: Item) -> list[Block]:
    """What a client's tool returned. What is no content, such as a shell's output, is told as JSON."""
    output = next((item[name] for name in ("output", "tools", "status") if item.get(name) is not None), "")
    parts: list[Any] = output if isinstance(output, list) else [output]
    if not all(map(is_part, parts)):
        return _text(written(output))
    return [block for part in parts for block in _blocks(part)]


def _blocks(part: Part) -> list[Block]:
    """A part as a block; as none if it is blank, which Anthropic refuses."""
    match part.get("type"):
        case "input_image" | "computer_screenshot":
            blocks = [_image(part)]
        case "input_file" if part.get("file_data"):
            blocks = [_document(part)]
        case "refusal":
            blocks = _text(part.get("refusal") or "")
        case kind if "text" not in part:
            raise InvalidRequest(f"This model server takes no '{kind}' as input. Send it as text.", param="input")
        case _:
            blocks = _text(part["text"] or "")
    if marker := part.get("cache_control"):
        for block in blocks:
            block["cache_control"] = marker
    return blocks


def _text(text: str) -> list[Block]:
    return [{"type": "text", "text": text}] if text.strip() else []


def _image(part: Part) -> Block:
    url = part.get("image_url")
    if not url:
        raise InvalidRequest("An image needs an 'image_url': https:// or a data: URL.", param="input")
    if not (data := _DATA_URL.match(url)):
        return {"type": "image", "source": {"type": "url", "url": url}}
    media_type = "image/jpeg" if data[1] == "image/jpg" else data[1]
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data[2]}}


def _document(part: Part) -> Block:
    """A PDF as it is, any other file as its text. In the Responses API bare base64 will do for a data: URL."""
    name, data = part.get("filename") or "file", part["file_data"]
    media_type = guess_type(name)[0]
    if found := _DATA_URL.match(data):
        media_type, data = found[1] or media_type, found[2]
    if media_type == "application/pdf":
        source = {"type": "base64", "media_type": media_type, "data": data}
    else:
        source = {"type": "text", "media_type": "text/plain", "data": _decoded(data, name)}
    return {"type": "document", "source": source, "title": name}


def _decoded(data: str, name: str) -> str:
    try:
        text = base64.b64decode(data).decode()
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    if not text.strip() or "\0" in text:
        raise InvalidRequest(f"This model server takes PDF and text: '{name}' is neither.", param="input")
    return text


def _thinking_of(item: Item) -> str:
    content = item.get("content")
    parts = content if isinstance(content, list) else ()
    return "".join(part["text"] for part in parts if isinstance(part.get("text"), str))


def _input(arguments: str) -> dict[str, Any]:
    """Arguments as the object that Anthropic demands, also when a model has written none."""
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        value = arguments
    return value if isinstance(value, dict) else {"input": value}


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _tools(prompt: Prompt, called: Iterable[str]) -> dict[str, Any]:
    if not prompt.tools:  # calls in the talk must be of known tools all the same
        stubs = [_tool(Tool(name)) for name in called]
        return {"tools": stubs, "tool_choice": {"type": "none"}} if stubs else {}
    choice: dict[str, Any] = {"type": {"required": "any"}.get(prompt.tool_choice, prompt.tool_choice)}
    if prompt.tool_choice not in ("auto", "none", "required"):
        choice = {"type": "tool", "name": prompt.tool_choice}
    if not prompt.parallel_tool_calls and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    body: dict[str, Any] = {"tools": [_tool(tool) for tool in prompt.tools]}
    return body if choice == {"type": "auto"} else {**body, "tool_choice": choice}


def _tool(tool: Tool) -> dict[str, Any]:
    made: dict[str, Any] = {"name": tool.name, "input_schema": {"type": "object", **(tool.parameters or {})}}
    if tool.cache_control:
        made["cache_control"] = tool.cache_control
    return {**made, "description": tool.description} if tool.description else made


def _thinking(prompt: Prompt, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """How long the model may think, and `max_tokens`, which hold its thinking too."""
    budget = prompt.reasoning_tokens
    if budget is None and prompt.reasoning_effort:
        budget = _BUDGETS.get(prompt.reasoning_effort, 0)
    if version(prompt.model) >= _ADAPTIVE:
        return _adaptive(prompt, budget)
    if budget:
        budget = max(budget, _LEAST_BUDGET)
    limit = prompt.max_output_tokens or _OUTPUT_TOKENS + (budget or 0)
    body: dict[str, Any] = {"max_tokens": limit}
    if budget and limit > _LEAST_BUDGET and _may_think(prompt, messages):
        body["thinking"] = {"type": "enabled", "budget_tokens": min(budget, limit - 1)}
    elif budget == 0:
        body["thinking"] = {"type": "disabled"}
    return body


def _may_think(prompt: Prompt, messages: list[dict[str, Any]]) -> bool:
    """With a budget it thinks neither when it must call a tool, nor in the middle of a turn begun without a thought."""
    if prompt.tools and prompt.tool_choice not in ("auto", "none"):
        return False
    interrupted = messages[-1]["content"][0]["type"] == "tool_result"
    return not interrupted or messages[-2]["content"][0]["type"] in ("thinking", "redacted_thinking")


def _adaptive(prompt: Prompt, budget: int | None) -> dict[str, Any]:
    made = version(prompt.model)
    thinks = budget or (_BUDGETS["high"] if made >= _THINKS_UNASKED and budget is None else 0)
    body: dict[str, Any] = {"max_tokens": prompt.max_output_tokens or _OUTPUT_TOKENS + thinks}
    if budget == 0:
        can_rest = made <= _THINKS_UNASKED and re.search("opus|sonnet|haiku", prompt.model)
        return body | ({"thinking": {"type": "disabled"}} if can_rest else {"output_config": {"effort": "low"}})
    if budget is not None or prompt.reasoning_summary:
        body["thinking"] = {"type": "adaptive", "display": "summarized"}
    if budget is not None:
        body["output_config"] = {"effort": _effort(prompt, budget, made)}
    return body


def _effort(prompt: Prompt, budget: int, made: tuple[int, int]) -> str:
    asked = prompt.reasoning_effort if prompt.reasoning_tokens is None else None
    effort = asked or next((name for name, most in _BUDGETS.items() if budget <= most), "max")
    return "max" if effort == "xhigh" and made < _WITH_XHIGH else effort


def _sampling(prompt: Prompt, thinks: bool) -> dict[str, Any]:
    """Newer models take none of it, those that think little, and of the two only one."""
    if version(prompt.model) >= _WITHOUT_SAMPLING:
        return {}
    if prompt.temperature is not None and not thinks:
        return {"temperature": min(prompt.temperature, 1.0)}
    if prompt.top_p is not None and (not thinks or prompt.top_p >= _LEAST_TOP_P):
        return {"top_p": prompt.top_p}
    return {}

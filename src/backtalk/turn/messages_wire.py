"""The body of `POST /v1/messages`, Anthropic's wire, and how it becomes a turn.

Messages of blocks become items; what is wrong with an item afterwards is told by the block that it was made of.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, Field, WithJsonSchema

from backtalk.core.errors import InvalidRequest
from backtalk.domain.caller import Caller
from backtalk.domain.intake import check_count, take_function, take_items
from backtalk.domain.items import Item, Part
from backtalk.domain.turn import TurnRequest
from backtalk.turn.choices import EFFORTS, one_of
from backtalk.turn.structured import take_format

_OBJECT = {"type": "object", "additionalProperties": True}
_OBJECTS = {"type": "array", "items": _OBJECT}
_TEXTS = {"anyOf": [{"type": "string"}, _OBJECTS]}
_ROLES = ("user", "assistant", "system")
_TEXT = {"type": "string"}
_EDITS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "command": {**_TEXT, "description": "view, create, str_replace, insert, …"},
        "path": _TEXT,
        "file_text": _TEXT,
        "old_str": _TEXT,
        "new_str": _TEXT,
        "insert_line": {"type": "integer"},
        "insert_text": _TEXT,
        "view_range": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["command"],
}
_SHELL: dict[str, Any] = {"type": "object", "properties": {"command": _TEXT, "restart": {"type": "boolean"}}}
_CLIENT_TOOLS = {
    "bash_": ("Runs a command in a shell that stays open; `restart` opens a new one.", _SHELL),
    "text_editor_": ("Views and edits text files.", _EDITS),
    "memory_": ("Views and edits the files of a memory that outlives this talk, under /memories.", _EDITS),
}
"""Tools that Anthropic's models know by type and the client runs, by the beginning of the type."""


_FIELDS = {"file_id": "source.file_id", "file_data": "source.data", "image_url": "source.url"}
"""What a block calls the fields of a part."""


class CountMessageTokens(BaseModel):
    """A talk whose tokens are to be counted."""

    model: str | None = Field(default=None, description="A model id of `GET /v1/models`. Default: this server's.")
    messages: Annotated[Any, WithJsonSchema(_OBJECTS)] = Field(description="The talk so far, oldest first.")
    system: Annotated[Any, WithJsonSchema(_TEXTS)] = Field(default=None, description="A text, or blocks of text.")
    tools: Annotated[Any, WithJsonSchema(_OBJECTS)] = Field(default=None, description="Functions of the client's.")
    tool_choice: Annotated[Any, WithJsonSchema(_OBJECT)] = None
    thinking: Annotated[Any, WithJsonSchema(_OBJECT)] = None
    output_config: Annotated[Any, WithJsonSchema(_OBJECT)] = Field(
        default=None, description="`effort`, and a `format` of type `json_schema`."
    )
    output_format: Annotated[Any, WithJsonSchema(_OBJECT)] = None
    cache_control: Any = None
    context_management: Any = None
    mcp_servers: Any = None
    speed: Any = None
    user_profile_id: Any = None
    workspace_id: Any = None

    model_config = {
        "extra": "allow",
        "strict": True,
        "json_schema_extra": {"examples": [{"messages": [{"role": "user", "content": "Hello!"}]}]},
    }


class CreateMessage(CountMessageTokens):
    """Messages in, one message out."""

    max_tokens: int = Field(ge=0, description="The most tokens to answer with.")
    stream: bool | None = Field(default=None, description="Server-sent events instead of one JSON answer.")
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=0, description="Ignored.")
    stop_sequences: Annotated[Any, WithJsonSchema({"type": "array", "items": _TEXT})] = None
    metadata: Annotated[Any, WithJsonSchema(_OBJECT)] = Field(default=None, description="`user_id`.")
    service_tier: Any = None
    container: Any = None
    diagnostics: Any = None
    inference_geo: Any = None

    model_config = {
        "json_schema_extra": {"examples": [{"max_tokens": 1024, "messages": [{"role": "user", "content": "Hello!"}]}]}
    }


def to_turn(body: CreateMessage, caller: Caller, request_id: str | None) -> "tuple[TurnRequest, Places]":
    """The turn that a body asks for. Raises InvalidRequest for what pydantic could not see."""
    turn, places = to_count(body, caller)
    turn.max_output_tokens = body.max_tokens
    turn.temperature = body.temperature
    turn.top_p = body.top_p
    turn.stop = _stop(body.stop_sequences)
    turn.user = _user(body.metadata)
    turn.request_id = request_id
    return turn, places


def to_count(body: CountMessageTokens, caller: Caller) -> "tuple[TurnRequest, Places]":
    """The same of a body that is only to be counted."""
    tools = _tools(body.tools)
    choice, parallel = _tool_choice(body.tool_choice, tools)
    instructions, system = _system(body.system)
    config = _object(body.output_config, "output_config") or {}
    talk = _Talk()
    if system:
        talk.add({"type": "message", "role": "system", "content": system}, "system", _numbered("system", system))
    _messages(talk, body.messages)
    turn = TurnRequest(
        caller=caller,
        model=body.model or "",
        input=talk.items(),
        head={},
        store=False,
        instructions=instructions,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=parallel,
        text_format=_format(config.get("format"), "output_config.format")
        or _format(body.output_format, "output_format"),
        reasoning_effort=one_of(config.get("effort"), EFFORTS, "output_config.effort"),
        reasoning_tokens=_thinking(body.thinking),
    )
    return turn, talk.places


# ── where things came from ───────────────────────────────────────────────────────────────────────────────────────────


class Places:
    """Where in the body each item of the input came from, and each of its parts."""

    def __init__(self) -> None:
        self._found: list[tuple[str, list[str]]] = []

    def add(self, place: str, parts: list[str]) -> None:
        self._found.append((place, parts))

    @contextmanager
    def named(self) -> Iterator[None]:
        """Raises what is wrong with an item as what is wrong with the block that it was made of."""
        try:
            yield
        except InvalidRequest as error:
            place = self._place(error.param or "")
            message = error.message.replace(error.param, place) if error.param else error.message
            if error.code == "context_length_exceeded":
                message = f"prompt is too long: {message}"  # clients of this wire look for these words
            raise InvalidRequest(message, param=place or None, code=error.code) from None

    def _place(self, param: str) -> str:
        """`input[3].content[1].file_id` as `messages.2.content.2.source.file_id`."""
        if not param.startswith("input"):
            return param
        if not param.startswith("input["):
            return "messages"
        item, _, rest = param.removeprefix("input[").partition("]")
        place, parts = self._found[int(item)]
        field, bracket, inner = rest.removeprefix(".").partition("[")
        if bracket:
            part, _, rest = inner.partition("]")
            place, field = parts[int(part)], rest.removeprefix(".")
        return ".".join(filter(None, [place, _FIELDS.get(field, field)]))


class _Talk:
    """Items as they are made, block by block."""

    def __init__(self) -> None:
        self.places = Places()
        self._items: list[Item] = []
        self._message: tuple[Item, list[str]] | None = None

    def begin(self) -> None:
        """Text that follows belongs to another message."""
        self._message = None

    def say(self, role: str, parts: Sequence[Part], message: str, place: str) -> None:
        """More parts of the message that is open, or the first ones of a new one."""
        if not parts:
            return
        if self._message is None:
            self._message = {"type": "message", "role": role, "content": []}, []
            self.add(self._message[0], message, self._message[1])
        item, places = self._message
        item["content"] += parts
        places += [place] * len(parts)

    def add(self, item: Item, place: str, parts: list[str]) -> None:
        """An item, with its place and those of its parts."""
        self._items.append(item)
        self.places.add(place, parts)
        check_count(len(self._items), "messages")

    def __len__(self) -> int:
        return len(self._items)

    def items(self) -> list[Item]:
        """All of them, in the shape that the house keeps. Raises InvalidRequest."""
        with self.places.named():
            return take_items(self._items, "input")


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _messages(talk: _Talk, value: Any) -> None:
    if not isinstance(value, list):
        raise _wrong("messages", "expected an array of messages")
    if not value:
        raise _wrong("messages", "at least one message is required")
    check_count(len(value), "messages")
    before = len(talk)
    for i, message in enumerate(value):
        _take_message(talk, message, f"messages.{i}")
    if len(talk) == before:
        raise _wrong("messages", "there is nothing in them that can be told to a model")


def _take_message(talk: _Talk, message: Any, place: str) -> None:
    if not isinstance(message, dict):
        raise _wrong(place, "expected an object")
    role, content, place_of_content = message.get("role"), message.get("content"), f"{place}.content"
    if role not in _ROLES:
        raise _wrong(f"{place}.role", f"expected one of {', '.join(_ROLES)}")
    talk.begin()
    if isinstance(content, str):
        talk.say(role, [_said(role, content)], place, place_of_content)
        return
    if not isinstance(content, list):
        raise _wrong(place_of_content, "expected a string or an array of blocks")
    if not content and role != "assistant":
        raise _wrong(place_of_content, "at least one block is required")
    check_count(len(content), place_of_content)
    for k, block in enumerate(content):
        _take_block(talk, role, block, place, f"{place_of_content}.{k}")


def _take_block(talk: _Talk, role: str, block: Any, message: str, place: str) -> None:
    kind = _kind(block, place)
    if take := _ITEMS.get(kind):
        talk.begin()
        item = take(block, place)
        talk.add(item, place, _numbered(f"{place}.content", item.get("output")))
        return
    parts = _parts(block, place)
    if role == "assistant":  # it says text and nothing else
        parts = [{**part, "type": "output_text"} for part in parts if "text" in part]
    talk.say(role, parts, message, place)


def _said(role: str, text: str) -> Part:
    return {"type": "output_text" if role == "assistant" else "input_text", "text": text}


def _numbered(place: str, parts: Any) -> list[str]:
    return [f"{place}.{i}" for i in range(len(parts))] if isinstance(parts, list) else []


def _system(value: Any) -> tuple[str | None, list[Part]]:
    """Instructions; or, where a cache is to end within them, the parts of a system message."""
    if value is None or isinstance(value, str):
        return value or None, []
    if not isinstance(value, list):
        raise _wrong("system", "expected a string or an array of text blocks")
    check_count(len(value), "system")
    parts = []
    for i, block in enumerate(value):
        if _kind(block, f"system.{i}") != "text":
            raise _wrong(f"system.{i}.type", "expected 'text'")
        parts.append({**_said("system", _string(block, "text", f"system.{i}")), **_cached(block)})
    if any("cache_control" in part for part in parts):
        return None, parts
    return "\n\n".join(part["text"] for part in parts) or None, []


# ── blocks that are items ────────────────────────────────────────────────────────────────────────────────────────────


def _thought(block: dict[str, Any], place: str) -> Item:
    text = _string(block, "thinking", place)
    content = [{"type": "reasoning_text", "text": text}] if text else []
    sealed = _string_or_none(block, "signature", place)
    return {"type": "reasoning", "summary": [], "content": content, "encrypted_content": sealed or None}


def _sealed(block: dict[str, Any], place: str) -> Item:
    return {"type": "reasoning", "summary": [], "content": [], "encrypted_content": _string(block, "data", place)}


def _tool_use(block: dict[str, Any], place: str) -> Item:
    given = block.get("input")
    if not isinstance(given, dict):
        raise _wrong(f"{place}.input", "expected an object")
    return {
        "type": "function_call",
        "call_id": _string(block, "id", place),
        "name": _string(block, "name", place),
        "arguments": msgspec.json.encode(given).decode(),
        **_cached(block),
    }


def _tool_result(block: dict[str, Any], place: str) -> Item:
    call_id, output = _string(block, "tool_use_id", place), block.get("content")
    if output is None:
        output = ""
    elif isinstance(output, list):
        check_count(len(output), f"{place}.content")
        output = [_one_part(part, f"{place}.content.{i}") for i, part in enumerate(output)] or ""
    elif not isinstance(output, str):
        raise _wrong(f"{place}.content", "expected a string or an array of blocks")
    if block.get("is_error"):
        output = _failed(output)
    if mark := _cached(block):
        *before, last = output if isinstance(output, list) else [_said("user", output)]
        output = [*before, {**last, **mark}]
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def _one_part(block: Any, place: str) -> Part:
    """A block of a tool's result as one part, so that parts and blocks have the same numbers."""
    parts = _parts(block, place)
    if len(parts) == 1:
        return parts[0]
    return {"type": "input_text", "text": "\n".join(part["text"] for part in parts if "text" in part)}


def _failed(output: str | list[Part]) -> str | list[Part]:
    """A result that says so itself that it is an error: items know no such mark."""
    told = "The tool failed."
    if isinstance(output, str):
        return f"{told}\n{output}" if output else told
    first, *rest = output
    if "text" in first:
        return [{**first, "text": f"{told}\n{first['text']}"}, *rest]
    return [*output, {"type": "input_text", "text": told}]


_ITEMS: dict[str, Callable[[dict[str, Any], str], Item]] = {
    "thinking": _thought,
    "redacted_thinking": _sealed,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
}


# ── blocks that are parts ────────────────────────────────────────────────────────────────────────────────────────────


def _parts(block: Any, place: str) -> list[Part]:
    """What a block tells a model. Most are one part; one that tells nothing here is none."""
    take = _PARTS.get(_kind(block, place), _unknown)
    return [{**part, **_cached(block)} for part in take(block, place)]


def _text(block: dict[str, Any], place: str) -> list[Part]:
    return [_said("user", _string(block, "text", place))]


def _image(block: dict[str, Any], place: str) -> list[Part]:
    source, kind = _source(block, place)
    place = f"{place}.source"
    if kind == "base64":
        media, data = _string(source, "media_type", place), _string(source, "data", place)
        if not media.startswith("image/"):
            raise _wrong(f"{place}.media_type", "expected an image's, such as 'image/png'")
        return [{"type": "input_image", "image_url": f"data:{media};base64,{data}"}]
    if kind == "url":
        return [{"type": "input_image", "image_url": _string(source, "url", place)}]
    if kind == "file":
        return [{"type": "input_image", "file_id": _string(source, "file_id", place)}]
    raise _wrong(f"{place}.type", "expected 'base64', 'url' or 'file'")


def _document(block: dict[str, Any], place: str) -> list[Part]:
    source, kind = _source(block, place)
    title = _string_or_none(block, "title", place)
    place = f"{place}.source"
    if kind == "base64":
        media, data = _string(source, "media_type", place), _string(source, "data", place)
        name = title or ("document.pdf" if media == "application/pdf" else "document")
        return [{"type": "input_file", "filename": name, "file_data": f"data:{media};base64,{data}"}]
    if kind == "file":
        return [{"type": "input_file", "file_id": _string(source, "file_id", place)}]
    if kind == "text":
        return [_quoted("file", title or "document", _string(source, "data", place))]
    if kind == "content":
        return _content(source, title or "document", place)
    if kind == "url":
        raise _wrong(
            f"{place}.url", "this server fetches nothing from other places: send the document, or upload it first"
        )
    raise _wrong(f"{place}.type", "expected 'base64', 'text', 'content' or 'file'")


def _content(source: dict[str, Any], title: str, place: str) -> list[Part]:
    """A document that the client has cut into blocks itself."""
    content = source.get("content")
    if isinstance(content, str):
        return [_quoted("file", title, content)]
    if not isinstance(content, list):
        raise _wrong(f"{place}.content", "expected a string or an array of blocks")
    check_count(len(content), f"{place}.content")
    parts = [part for i, block in enumerate(content) for part in _inner(block, f"{place}.content.{i}")]
    text = "\n".join(part["text"] for part in parts if "text" in part)
    return [_quoted("file", title, text), *(part for part in parts if "text" not in part)]


def _inner(block: Any, place: str) -> list[Part]:
    if _kind(block, place) not in ("text", "image"):
        raise _wrong(f"{place}.type", "expected 'text' or 'image'")
    return _parts(block, place)


def _search_result(block: dict[str, Any], place: str) -> list[Part]:
    content = block.get("content")
    if not isinstance(content, list):
        raise _wrong(f"{place}.content", "expected an array of text blocks")
    check_count(len(content), f"{place}.content")
    places = _numbered(f"{place}.content", content)
    texts = [_string(_object(part, where) or {}, "text", where) for part, where in zip(content, places, strict=True)]
    name = f"{_string(block, 'title', place)} ({_string(block, 'source', place)})"
    return [_quoted("search_result", name, "\n".join(texts))]


def _tool_reference(block: dict[str, Any], place: str) -> list[Part]:
    return [_said("user", f"The tool '{_string(block, 'tool_name', place)}' can be called.")]


def _unknown(block: dict[str, Any], _: str) -> list[Part]:
    """The text of a block that this version does not know, if it has one."""
    text = next((block[key] for key in ("text", "content") if isinstance(block.get(key), str)), "")
    return [_said("user", text)] if text else []


_PARTS: dict[str, Callable[[dict[str, Any], str], list[Part]]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "search_result": _search_result,
    "tool_reference": _tool_reference,
}


def _quoted(tag: str, name: str, text: str) -> Part:
    return _said("user", f"<{tag} name={name!r}>\n{text}\n</{tag}>")


def _source(block: dict[str, Any], place: str) -> tuple[dict[str, Any], str]:
    source = block.get("source")
    if not isinstance(source, dict):
        raise _wrong(f"{place}.source", "expected an object")
    return source, _string(source, "type", f"{place}.source")


def _cached(block: dict[str, Any]) -> dict[str, Any]:
    """The mark of a cache's end, for model servers that know it."""
    mark = block.get("cache_control")
    return {"cache_control": mark} if isinstance(mark, dict) else {}


# ── tools and settings ───────────────────────────────────────────────────────────────────────────────────────────────


def _tools(value: Any) -> list[dict[str, Any]]:
    """The tools that a model is offered: functions, and those of Anthropic's that the client runs.

    Others would run at Anthropic's, and are left out.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong("tools", "expected an array")
    check_count(len(value), "tools")
    found = [_tool(tool, f"tools.{i}") for i, tool in enumerate(value)]
    return [tool for tool in found if tool]


def _tool(value: Any, place: str) -> dict[str, Any] | None:
    tool = _object(value, place) or {}
    kind = _string_or_none(tool, "type", place) or "custom"
    if kind == "custom" or "input_schema" in tool:
        schema = tool.get("input_schema")
        if not isinstance(schema, dict):
            raise _wrong(f"{place}.input_schema", "expected an object")
        told = {"name": tool.get("name"), "description": tool.get("description"), "strict": tool.get("strict")}
        return take_function({**told, "parameters": schema, **_cached(tool)}, place, strict=False)
    for begin, (description, schema) in _CLIENT_TOOLS.items():
        if kind.startswith(begin):
            told = {"name": tool.get("name"), "description": description}
            return take_function({**told, "parameters": schema, **_cached(tool)}, place, strict=False)
    return None


def _tool_choice(value: Any, tools: list[dict[str, Any]]) -> tuple[Any, bool]:
    """The choice in the house's words, and whether several calls may be made at once."""
    choice = _object(value, "tool_choice")
    if choice is None:
        return "auto", True
    kind, single = _string(choice, "type", "tool_choice"), choice.get("disable_parallel_tool_use")
    if not isinstance(single, bool | None):
        raise _wrong("tool_choice.disable_parallel_tool_use", "expected a boolean")
    if kind in ("auto", "none"):
        return kind, not single
    if kind == "any":
        if not tools:
            raise _wrong("tool_choice", "'any' needs a tool that can be called here")
        return "required", not single
    if kind != "tool":
        raise _wrong("tool_choice.type", "expected 'auto', 'any', 'tool' or 'none'")
    name = _string(choice, "name", "tool_choice")
    if name not in [tool["name"] for tool in tools]:
        raise _wrong("tool_choice.name", f"no tool '{name[:128]}' that can be called here is in 'tools'")
    return {"type": "function", "name": name}, not single


def _thinking(value: Any) -> int | None:
    """What may be spent on thinking, where the client says so."""
    thinking = _object(value, "thinking")
    if thinking is None or _string(thinking, "type", "thinking") != "enabled":
        return None
    budget = thinking.get("budget_tokens")
    if type(budget) is not int or budget < 1:
        raise _wrong("thinking.budget_tokens", "expected a positive integer")
    return budget


def _format(value: Any, place: str) -> dict[str, Any] | None:
    form = _object(value, place)
    if form is None:
        return None
    if form.get("type") != "json_schema":
        raise _wrong(f"{place}.type", "expected 'json_schema'")
    return {"type": "json_schema", **take_format({"schema": form.get("schema"), "strict": True}, place)}


def _stop(value: Any) -> list[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise _wrong("stop_sequences", "expected an array of texts that are not empty")
    check_count(len(value), "stop_sequences")
    return value or None


def _user(value: Any) -> str | None:
    return _string_or_none(_object(value, "metadata") or {}, "user_id", "metadata")


# ── fields ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _kind(block: Any, place: str) -> str:
    if not isinstance(block, dict):
        raise _wrong(place, "expected an object")
    return _string(block, "type", place)


def _object(value: Any, place: str) -> dict[str, Any] | None:
    if not isinstance(value, dict | None):
        raise _wrong(place, "expected an object")
    return value


def _string(value: dict[str, Any], field: str, place: str) -> str:
    found = _string_or_none(value, field, place)
    if found is None:
        raise InvalidRequest("it is required", param=f"{place}.{field}", code="missing_required_parameter")
    return found


def _string_or_none(value: dict[str, Any], field: str, place: str) -> str | None:
    found = value.get(field)
    if not isinstance(found, str | None):
        raise _wrong(f"{place}.{field}", "expected a string")
    return found


def _wrong(place: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, param=place, code="invalid_value")

"""The body of `POST /v1/chat/completions`, and how it becomes a turn."""

from typing import Annotated, Any

from pydantic import BaseModel, Field, WithJsonSchema

from backtalk.core.errors import InvalidRequest
from backtalk.domain.caller import Caller
from backtalk.domain.intake import check_count, take_function, take_items, take_metadata, take_tools
from backtalk.domain.items import Item
from backtalk.domain.turn import TurnRequest
from backtalk.turn.choices import EFFORTS, VERBOSITIES, one_of, take_choice, take_custom
from backtalk.turn.structured import take_format

MAX_CHOICES = 16

_OBJECTS = {"type": "array", "items": {"type": "object", "additionalProperties": True}}


class CreateChatCompletion(BaseModel):
    """Messages in, one message out."""

    messages: Annotated[Any, WithJsonSchema(_OBJECTS)] = Field(description="The talk so far, oldest first.")
    model: str | None = Field(default=None, description="A model id of `GET /v1/models`. Default: this server's.")
    stream: bool | None = Field(default=None, description="Server-sent events instead of one JSON answer.")
    stream_options: dict[str, Any] | None = Field(
        default=None, description="`include_usage`: one more chunk at the end."
    )
    store: bool | None = Field(default=None, description="Keep the completion in the log.")
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES, description="How many answers.")
    logprobs: bool | None = Field(default=None, description="Log probabilities, where the model's server has them.")
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1, description="Wins over `max_tokens`.")
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    stop: Any = Field(default=None, description="A string, or up to four.")
    seed: int | None = None
    tools: Annotated[Any, WithJsonSchema(_OBJECTS)] = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    metadata: Any = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    model_config = {
        "extra": "allow",
        "strict": True,
        "json_schema_extra": {"examples": [{"messages": [{"role": "user", "content": "Hello!"}]}]},
    }


class UpdateChatCompletion(BaseModel, json_schema_extra={"examples": [{"metadata": {"topic": "project-x"}}]}):
    """What to change of a stored completion."""

    metadata: Any = Field(description="Replaces the metadata: up to 16 pairs of strings.")


def to_turn(body: CreateChatCompletion, caller: Caller, request_id: str | None) -> TurnRequest:
    """The turn that a body asks for. Raises InvalidRequest for what pydantic could not see."""
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest(
            "'stream_options' is only allowed with 'stream: true'.", param="stream_options", code="invalid_value"
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest(
            "'top_logprobs' is only allowed with 'logprobs: true'.", param="top_logprobs", code="invalid_value"
        )
    tools = _tools(body.tools)
    limit = body.max_completion_tokens or body.max_tokens
    choice = _tool_choice(body.tool_choice, tools)
    items, places = take_messages(body.messages)
    return TurnRequest(
        caller=caller,
        model=body.model or "",
        input=items,
        places=places,
        head=_head(body, tools, choice, limit),
        wire="chat",
        store=bool(body.store),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        temperature=body.temperature,
        top_p=body.top_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        max_output_tokens=limit,
        stop=_stop(body.stop),
        seed=body.seed,
        text_format=_format(body.response_format),
        verbosity=one_of(body.verbosity, VERBOSITIES, "verbosity"),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        reasoning_effort=one_of(body.reasoning_effort, EFFORTS, "reasoning_effort"),
        service_tier=body.service_tier,
        cache_key=body.prompt_cache_key,
        cache_retention=body.prompt_cache_retention,
        user=body.safety_identifier or body.user,
        request_id=request_id,
    )


def _head(body: CreateChatCompletion, tools: list[dict[str, Any]], choice: Any, limit: int | None) -> dict[str, Any]:
    """A stored completion can be read as a Response too. `choices` is how many of them make one completion."""
    head = {
        "id": None,
        "created_at": None,
        "background": False,
        "instructions": None,
        "max_output_tokens": limit,
        "max_tool_calls": None,
        "model": body.model,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": body.reasoning_effort, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": bool(body.store),
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": _format(body.response_format) or {"type": "text"}},
        "tool_choice": choice,
        "tools": tools,
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "presence_penalty": body.presence_penalty or 0.0,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "truncation": "disabled",
        "metadata": take_metadata(body.metadata),
        "choices": body.n or 1,
    }
    return head | ({} if body.user is None else {"user": body.user})


def take_messages(value: Any) -> tuple[list[Item], list[str | None]]:
    """Chat messages as items, and the message of each: tool calls and their results become items of their own."""
    if not isinstance(value, list):
        raise InvalidRequest(
            "Invalid type for 'messages': expected an array of messages.", param="messages", code="invalid_type"
        )
    if not value:
        raise InvalidRequest("'messages' is empty: send at least one.", param="messages", code="invalid_value")
    check_count(len(value), "messages")
    items: list[Item] = []
    places: list[str | None] = []
    for i, message in enumerate(value):
        items += _message(message, f"messages[{i}]")
        places += [f"messages[{i}]"] * (len(items) - len(places))
        check_count(len(items), "messages")
    return items, places


def _message(message: Any, param: str) -> list[Item]:
    if not isinstance(message, dict):
        raise InvalidRequest(f"Invalid type for '{param}': expected an object.", param=param, code="invalid_type")
    if message.get("role") in ("tool", "function"):
        return [_tool_message(message, param)]
    items: list[Item] = []
    content = message.get("content")
    if content is not None and content != "":
        item = {"type": "message", "role": message.get("role"), "content": _content(content, message, param)}
        items += _take(item, param)
    elif not message.get("tool_calls"):
        items += _take({"type": "message", "role": message.get("role"), "content": content}, param)
    for i, call in enumerate(_calls(message, param)):
        items += _take(_call(call, f"{param}.tool_calls[{i}]"), param)
    return items


def _calls(message: dict[str, Any], param: str) -> list[Any]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        where = f"{param}.tool_calls"
        raise InvalidRequest(f"Invalid type for '{where}': expected an array.", param=where, code="invalid_type")
    return calls


def _take(item: Item, param: str) -> list[Item]:
    """Checks one item; what is wrong with it is told in the words of the message that it came from."""
    try:
        return take_items([item], "messages")
    except InvalidRequest as error:
        path = (error.param or "").replace("messages[0]", param, 1)
        raise InvalidRequest(error.message.replace("messages[0]", param), param=path, code=error.code) from None


def _content(content: Any, message: dict[str, Any], param: str) -> Any:
    if not isinstance(content, list):
        return content
    return [_part(part, message.get("role"), f"{param}.content[{i}]") for i, part in enumerate(content)]


def _part(part: Any, role: Any, param: str) -> Any:
    """A chat content part as a Responses one."""
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if kind == "text":
        return {"type": "output_text" if role == "assistant" else "input_text", "text": part.get("text")}
    if kind == "image_url":
        image = part.get("image_url")
        if not isinstance(image, dict) or not isinstance(image.get("url"), str):
            raise InvalidRequest(
                f"Missing required parameter: '{param}.image_url.url'.",
                param=f"{param}.image_url.url",
                code="missing_required_parameter",
            )
        return {"type": "input_image", "image_url": image["url"], "detail": image.get("detail", "auto")}
    if kind == "file":
        file = part.get("file")
        if not isinstance(file, dict):
            raise InvalidRequest(
                f"Missing required parameter: '{param}.file'.", param=f"{param}.file", code="missing_required_parameter"
            )
        return {**file, "type": "input_file"}
    return part


def _call(call: Any, param: str) -> Item:
    kind = call.get("type") if isinstance(call, dict) else None
    field, written = ("custom", "input") if kind == "custom" else ("function", "arguments")
    function = call.get(field) if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise InvalidRequest(
            f"Missing required parameter: '{param}.{field}'.",
            param=f"{param}.{field}",
            code="missing_required_parameter",
        )
    return {
        "type": "custom_tool_call" if kind == "custom" else "function_call",
        "call_id": call.get("id"),
        "name": function.get("name"),
        written: function.get(written),
    }


def _tool_message(message: dict[str, Any], param: str) -> Item:
    output = message.get("content")
    if isinstance(output, list):
        output = "\n".join(
            part["text"] for part in output if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    item = {"type": "function_call_output", "call_id": message.get("tool_call_id"), "output": output or ""}
    return _take(item, param)[0]


def _tools(value: Any) -> list[dict[str, Any]]:
    return [_tool(tool, f"tools[{i}]") for i, tool in enumerate(take_tools(value))]


def _tool(tool: Any, param: str) -> dict[str, Any]:
    """A tool in the shape that a Response has it."""
    if isinstance(tool, dict) and tool.get("type") == "custom" and isinstance(tool.get("custom"), dict):
        return take_custom({**tool["custom"], **_grammar(tool["custom"]), "type": "custom"}, f"{param}.custom")
    function = tool.get("function") if isinstance(tool, dict) else None
    return take_function(function if isinstance(function, dict) else {}, f"{param}.function", strict=False)


def _grammar(custom: dict[str, Any]) -> dict[str, Any]:
    """Here a grammar is an object in the format, there it is the format."""
    form = custom.get("format")
    if isinstance(form, dict) and isinstance(form.get("grammar"), dict):
        return {"format": {"type": "grammar", **form["grammar"]}}
    return {}


def _tool_choice(choice: Any, tools: list[dict[str, Any]]) -> Any:
    if choice is None:
        return "auto"
    if isinstance(choice, dict):
        return take_choice(_choice(choice), tools)
    if choice in ("none", "auto", "required"):
        return choice
    raise InvalidRequest(
        "Invalid 'tool_choice': use 'none', 'auto', 'required' or a tool.",
        param="tool_choice",
        code="invalid_value",
    )


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice in the shape of a Response's: what it names stands one level higher there."""
    kind = choice.get("type", "function")
    inner = choice.get(kind) if isinstance(kind, str) else None
    if kind == "allowed_tools" and isinstance(inner, dict):
        tools = inner.get("tools")
        flat = list(map(_choice, tools)) if tools and _are_objects(tools) else tools
        return {"type": kind, "mode": inner.get("mode", "auto"), "tools": flat}
    return {"type": kind, "name": inner.get("name")} if isinstance(inner, dict) else {**choice, "type": kind}


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _stop(value: Any) -> list[str] | None:
    if value is None:
        return None
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or len(found) > 4 or not all(isinstance(text, str) for text in found):
        raise InvalidRequest("'stop' is a string, or up to four.", param="stop", code="invalid_value")
    return found


def _format(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """`response_format` as the `text.format` of a Response."""
    if value is None or value.get("type") == "text":
        return None
    if value.get("type") == "json_object":
        return {"type": "json_object"}
    schema = value.get("json_schema")
    if value.get("type") != "json_schema" or not isinstance(schema, dict) or not isinstance(schema.get("schema"), dict):
        raise InvalidRequest(
            "'response_format' is of type 'text', 'json_object', or 'json_schema' with a schema.",
            param="response_format",
            code="invalid_value",
        )
    found = {"strict": schema.get("strict"), "description": schema.get("description"), "schema": schema["schema"]}
    name = {} if schema.get("name") is None else {"name": schema["name"]}
    return {"type": "json_schema", **take_format({**found, **name}, "response_format.json_schema")}

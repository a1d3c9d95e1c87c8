"""The body of `POST /v1/responses`, and how it becomes a turn.

Pydantic checks the plain fields; what is a union on the wire (input, tools, tool_choice, …) is checked by hand, so that
one mistake gives one error with its exact parameter.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, WithJsonSchema

from backtalk.core.errors import InvalidRequest
from backtalk.domain.caller import Caller
from backtalk.domain.intake import take_function, take_input, take_metadata, take_tools
from backtalk.domain.turn import TurnRequest
from backtalk.http.errors import from_validation

_ANY_OBJECT = {"type": "object", "additionalProperties": True}
_INPUT = {"anyOf": [{"type": "string"}, {"type": "array", "items": _ANY_OBJECT}]}
_TOOLS = {"type": "array", "items": _ANY_OBJECT}
_CHOICE = {"anyOf": [{"type": "string", "enum": ["none", "auto", "required"]}, _ANY_OBJECT]}
_CONVERSATION = {"anyOf": [{"type": "string"}, _ANY_OBJECT]}


class CreateResponse(BaseModel):
    """A turn of talk. `input` is all that is needed; `model` has a default."""

    model: str | None = Field(default=None, description="A model id of `GET /v1/models`. Default: this server's.")
    input: Annotated[Any, WithJsonSchema(_INPUT)] = Field(default=None, description="A text, or a list of items.")
    instructions: str | None = Field(default=None, description="A system message for this response only.")
    previous_response_id: str | None = Field(default=None, description="Goes on from this response.")
    conversation: Annotated[Any, WithJsonSchema(_CONVERSATION)] = Field(
        default=None, description="A conversation that this turn continues and is added to."
    )
    store: bool | None = Field(
        default=None, description="Keep the response (default): it can be resumed and continued."
    )
    stream: bool | None = Field(default=None, description="Server-sent events instead of one JSON answer.")
    stream_options: dict[str, Any] | None = None
    background: bool | None = Field(default=None, description="Answer at once and go on working, whoever is connected.")
    include: list[str] | None = Field(
        default=None, fail_fast=True, description="More to send: `file_search_call.results`."
    )
    tools: Annotated[Any, WithJsonSchema(_TOOLS)] = Field(
        default=None, description="Functions of the client's, and `file_search` over vector stores."
    )
    tool_choice: Annotated[Any, WithJsonSchema(_CHOICE)] = "auto"
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = Field(default=None, ge=1)
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    truncation: Literal["auto", "disabled"] | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    metadata: Annotated[Any, WithJsonSchema(_ANY_OBJECT)] = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    prompt: Any = None

    model_config = {
        "extra": "allow",
        "json_schema_extra": {"examples": [{"input": "Who won Super Bowl 50?"}]},
    }


def read(body: dict[str, Any]) -> CreateResponse:
    """A body that did not come through a route, checked as one that did. Raises InvalidRequest."""
    try:
        return CreateResponse.model_validate(body)
    except ValidationError as error:
        raise from_validation([{**first, "loc": ("body", *first["loc"])} for first in error.errors()]) from None


def to_turn(body: CreateResponse, caller: Caller, request_id: str | None) -> TurnRequest:
    """The turn that a body asks for. Raises InvalidRequest for what pydantic could not see."""
    _check_combinations(body)
    tools = _tools(body.tools)
    choice = _tool_choice(body.tool_choice, tools)
    text = _text(body.text)
    conversation_id = _conversation_id(body.conversation)
    store = body.store is not False
    background = bool(body.background)
    parallel = body.parallel_tool_calls is not False
    reasoning = body.reasoning or {}
    head: dict[str, Any] = {
        "id": None,
        "created_at": None,
        "background": background,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "model": body.model,
        "parallel_tool_calls": parallel,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": store,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": text,
        "tool_choice": choice,
        "tools": tools,
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "presence_penalty": body.presence_penalty or 0.0,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "truncation": body.truncation or "disabled",
        "metadata": take_metadata(body.metadata),
    }
    if conversation_id:
        head["conversation"] = {"id": conversation_id}
    if body.user is not None:
        head["user"] = body.user
    return TurnRequest(
        caller=caller,
        model=body.model or "",
        input=_input(body),
        head=head,
        previous_response_id=body.previous_response_id,
        conversation_id=conversation_id,
        store=store,
        background=background,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=parallel,
        max_tool_calls=body.max_tool_calls,
        instructions=body.instructions,
        temperature=body.temperature,
        top_p=body.top_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        max_output_tokens=body.max_output_tokens,
        text_format=None if text["format"]["type"] == "text" else text["format"],
        reasoning_effort=reasoning.get("effort"),
        truncation=body.truncation or "disabled",
        user=body.safety_identifier or body.user,
        request_id=request_id,
    )


def _check_combinations(body: CreateResponse) -> None:
    if body.prompt is not None:
        raise _refuse("prompt", "Prompt templates are not offered here: send the text as instructions and input.")
    if body.conversation is not None and body.previous_response_id is not None:
        raise _refuse("previous_response_id", "Send either 'conversation' or 'previous_response_id', not both.")
    if body.background and body.store is False:
        raise _refuse("background", "A background response has to be stored: drop 'store: false' or 'background'.")
    if body.stream_options is not None and not body.stream:
        raise _refuse("stream_options", "'stream_options' is only allowed with 'stream: true'.")


def _input(body: CreateResponse) -> list[dict[str, Any]]:
    if body.input is None:
        if body.previous_response_id or body.conversation:
            return []
        raise InvalidRequest("Missing required parameter: 'input'.", param="input", code="missing_required_parameter")
    return take_input(body.input)


def _conversation_id(value: Any) -> str | None:
    if value is None:
        return None
    found = value.get("id") if isinstance(value, dict) else value
    if not isinstance(found, str):
        raise InvalidRequest(
            "Invalid type for 'conversation': expected an id or an object with an id.",
            param="conversation",
            code="invalid_type",
        )
    if not found.startswith("conv_"):
        raise _refuse("conversation", "Invalid 'conversation': expected an id that begins with 'conv_'.")
    return found


_HOSTED = {
    "web_search",
    "web_search_preview",
    "code_interpreter",
    "computer_use_preview",
    "image_generation",
    "local_shell",
    "shell",
    "apply_patch",
    "mcp",
    "custom",
    "namespace",
    "tool_search",
}


def _tools(value: Any) -> list[dict[str, Any]]:
    """The tools with defaults filled in. Hosted ones that this server has not are echoed and not offered."""
    return [_tool(tool, f"tools[{i}]") for i, tool in enumerate(take_tools(value))]


def _tool(tool: Any, param: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise _wrong_type(param, "an object")
    kind = tool.get("type")
    if kind == "function":
        return take_function(tool, param, strict=True)
    if kind == "file_search":
        return _file_search(tool, param)
    if kind is None:
        raise InvalidRequest(
            f"Missing required parameter: '{param}.type'.", param=f"{param}.type", code="missing_required_parameter"
        )
    if isinstance(kind, str) and (kind in _HOSTED or kind.startswith(("web_search", "computer_use"))):
        if not isinstance(tool.get("name"), str | None):
            raise _wrong_type(f"{param}.name", "a string")
        return tool
    raise _refuse(f"{param}.type", f"Invalid value for '{param}.type': {str(kind)[:80]!r}.")


def _file_search(tool: dict[str, Any], param: str) -> dict[str, Any]:
    stores = tool.get("vector_store_ids")
    if stores is None:
        raise InvalidRequest(
            f"Missing required parameter: '{param}.vector_store_ids'.",
            param=f"{param}.vector_store_ids",
            code="missing_required_parameter",
        )
    if not isinstance(stores, list) or not all(isinstance(store, str) for store in stores):
        raise _wrong_type(f"{param}.vector_store_ids", "an array of strings")
    if not stores or len(stores) > 16:
        raise _refuse(f"{param}.vector_store_ids", "Name 1 to 16 vector stores.")
    most = tool.get("max_num_results")
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= 50):
        raise _refuse(f"{param}.max_num_results", "'max_num_results' is a whole number from 1 to 50.")
    for field in ("filters", "ranking_options"):
        if not isinstance(tool.get(field), dict | None):
            raise _wrong_type(f"{param}.{field}", "an object")
    return {"filters": None, **tool}


def _tool_choice(choice: Any, tools: list[dict[str, Any]]) -> Any:
    if choice is None:
        return "auto"
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise _refuse("tool_choice", "Invalid 'tool_choice': use 'none', 'auto', 'required' or an object.")
        if choice == "required" and not tools:
            raise _refuse("tool_choice", "'tool_choice' is 'required', but no tools are given.")
        return choice
    if not isinstance(choice, dict) or not isinstance(choice.get("type"), str):
        raise _wrong_type("tool_choice", "a string, or an object with a type")
    _check_named(choice, {tool.get("name") or tool["type"] for tool in tools})
    return choice


def _check_named(choice: dict[str, Any], names: set[str]) -> None:
    """What a `tool_choice` names must be among the tools."""
    if choice["type"] == "allowed_tools":
        allowed = choice.get("tools")
        if not isinstance(allowed, list) or not all(map(_is_named, allowed)):
            raise _wrong_type("tool_choice.tools", "an array of tools, each with a type and a name")
        if choice.get("mode", "auto") not in ("auto", "required"):
            raise _refuse("tool_choice.mode", "'tool_choice.mode' is 'auto' or 'required'.")
        return
    name = choice.get("name") if choice["type"] in ("function", "custom") else choice["type"]
    if not isinstance(name, str):
        raise _wrong_type("tool_choice.name", "a string")
    if name not in names and choice["type"] in ("function", "file_search"):
        raise _refuse("tool_choice", f"Tool choice '{name[:128]}' not found in 'tools'.")


def _is_named(tool: Any) -> bool:
    return isinstance(tool, dict) and isinstance(tool.get("name") or tool.get("type"), str)


def _text(value: dict[str, Any] | None) -> dict[str, Any]:
    text = dict(value or {})
    form = text.get("format") or {"type": "text"}
    if not isinstance(form, dict) or form.get("type") not in ("text", "json_object", "json_schema"):
        raise _refuse("text.format.type", "'text.format.type' is 'text', 'json_object' or 'json_schema'.")
    if form["type"] == "json_schema":
        if not isinstance(form.get("schema"), dict):
            raise InvalidRequest(
                "Missing required parameter: 'text.format.schema'.",
                param="text.format.schema",
                code="missing_required_parameter",
            )
        form = {"name": "answer", "description": None, "strict": None, **form}
    return {**text, "format": form}


def _refuse(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="invalid_value")


def _wrong_type(param: str, expected: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid type for '{param}': expected {expected}.", param=param, code="invalid_type")

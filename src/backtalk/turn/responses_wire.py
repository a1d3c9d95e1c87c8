"""The body of `POST /v1/responses`, and how it becomes a turn.

Pydantic checks the plain fields; what is a union on the wire (input, tools, tool_choice, …) is checked by hand, so that
one mistake gives one error with its exact parameter.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, WithJsonSchema

from backtalk.core.errors import InvalidRequest
from backtalk.domain.caller import Caller
from backtalk.domain.intake import (
    MAX_TOOLS,
    check_count,
    take_function,
    take_include,
    take_input,
    take_metadata,
    take_tools,
)
from backtalk.domain.items import LOGPROBS, Item
from backtalk.domain.turn import TurnRequest
from backtalk.http.errors import from_validation
from backtalk.turn.choices import (
    EFFORTS,
    SUMMARIES,
    VERBOSITIES,
    one_of,
    refuse,
    take_choice,
    take_custom,
    wrong_type,
)
from backtalk.turn.structured import take_format

_ANY_OBJECT = {"type": "object", "additionalProperties": True}
_INPUT = {"anyOf": [{"type": "string"}, {"type": "array", "items": _ANY_OBJECT}]}
_TOOLS = {"type": "array", "items": _ANY_OBJECT}
_CHOICE = {"anyOf": [{"type": "string", "enum": ["none", "auto", "required"]}, _ANY_OBJECT]}
_OBJECTS = {"type": "array", "items": _ANY_OBJECT}
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
        default=None, fail_fast=True, description="More to send, such as `file_search_call.results`."
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
    context_management: Annotated[Any, WithJsonSchema(_OBJECTS)] = Field(
        default=None,
        description='`[{"type": "compaction", "compact_threshold": n}]`: a talk of more tokens is made short first.',
    )
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    metadata: Annotated[Any, WithJsonSchema(_ANY_OBJECT)] = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    service_tier: str | None = None
    prompt: Any = None
    moderation: Any = Field(default=None, description="Taken and not heeded, as are the next five.")
    prompt_cache_options: Any = None
    access_programs: Any = None
    background_options: Any = None
    image: Any = None
    client_metadata: Any = None

    model_config = {
        "extra": "allow",
        "strict": True,
        "json_schema_extra": {"examples": [{"input": "Who won Super Bowl 50?"}]},
    }


RESULTS = 10
"""Passages of a search that names no number."""


def read(body: dict[str, Any]) -> CreateResponse:
    """A body that did not come through a route, checked as one that did. Raises InvalidRequest."""
    try:
        return CreateResponse.model_validate(body)
    except ValidationError as error:
        raise from_validation([{**first, "loc": ("body", *first["loc"])} for first in error.errors()]) from None


def to_turn(body: CreateResponse, caller: Caller, request_id: str | None, *, generate: bool = True) -> TurnRequest:
    """The turn that a body asks for. Raises InvalidRequest for what pydantic could not see.

    One that is not to `generate` anything may have no input.
    """
    _check_combinations(body)
    tools = _tools(body.tools)
    choice = take_choice(body.tool_choice, tools)
    text = _text(body.text)
    reasoning = _reasoning(body.reasoning)
    include = take_include(body.include)
    conversation_id = _conversation(body.conversation)
    branched, branch_from = _branch(body.conversation)
    items, compact = _input(body, optional=not generate)
    head = _head(body, tools, choice, text, reasoning)
    if include:
        head["include"] = include
    if conversation_id:
        head["conversation"] = {"id": conversation_id}
    return TurnRequest(
        caller=caller,
        model=body.model or "",
        input=items,
        head=head,
        previous_response_id=body.previous_response_id,
        conversation_id=conversation_id,
        branched=branched,
        branch_from=branch_from,
        store=head["store"],
        background=head["background"],
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=head["parallel_tool_calls"],
        max_tool_calls=body.max_tool_calls,
        instructions=body.instructions,
        temperature=body.temperature,
        top_p=body.top_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        max_output_tokens=body.max_output_tokens,
        text_format=None if text["format"]["type"] == "text" else text["format"],
        verbosity=text.get("verbosity"),
        logprobs=body.top_logprobs or 0 if LOGPROBS in include else None,
        reasoning_effort=reasoning["effort"],
        reasoning_summary=reasoning["summary"],
        service_tier=body.service_tier,
        cache_key=body.prompt_cache_key,
        cache_retention=body.prompt_cache_retention,
        truncation=head["truncation"],
        compact_above=_threshold(body.context_management),
        compact=compact,
        user=body.safety_identifier or body.user,
        request_id=request_id,
        generate=generate,
    )


def _head(
    body: CreateResponse, tools: list[dict[str, Any]], choice: Any, text: dict[str, Any], reasoning: dict[str, Any]
) -> dict[str, Any]:
    """What of the Response object is settled now. All keys of it are always sent, but for the last two."""
    head: dict[str, Any] = {
        "id": None,
        "created_at": None,
        "background": bool(body.background),
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "model": body.model,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": reasoning,
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.store is not False,
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
    for name in ("user", "prompt_cache_retention"):
        if (value := getattr(body, name)) is not None:
            head[name] = value
    return head


def _check_combinations(body: CreateResponse) -> None:
    if body.prompt is not None:
        raise refuse("prompt", "Prompt templates are not offered here: send the text as instructions and input.")
    if body.conversation is not None and body.previous_response_id is not None:
        raise refuse("previous_response_id", "Send either 'conversation' or 'previous_response_id', not both.")
    if body.background and body.store is False:
        raise refuse("background", "A background response has to be stored: drop 'store: false' or 'background'.")
    if body.stream_options is not None and not body.stream:
        raise refuse("stream_options", "'stream_options' is only allowed with 'stream: true'.")


def _input(body: CreateResponse, *, optional: bool) -> tuple[list[Item], bool]:
    """The items, and whether a trigger at their end asks for a compaction."""
    value = body.input
    compact = isinstance(value, list) and bool(value) and _is_trigger(value[-1])
    if compact:
        value = value[:-1]
    goes_on = optional or body.previous_response_id is not None or body.conversation is not None
    if not value and value != "" and goes_on:
        return [] if value is None else take_input(value), compact
    if value is None or value == []:
        raise InvalidRequest("Missing required parameter: 'input'.", param="input", code="missing_required_parameter")
    for i, item in enumerate(value if isinstance(value, list) else ()):
        if _is_trigger(item):
            raise refuse(f"input[{i}]", "A 'compaction_trigger' must be the last item of the input.")
    return take_input(value), compact


def _is_trigger(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == "compaction_trigger"


def _threshold(value: Any) -> int | None:
    """The `compact_threshold` of `context_management`."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise wrong_type("context_management", "an array of objects")
    found = None
    for i, entry in enumerate(value):
        param = f"context_management[{i}]"
        if not isinstance(entry, dict):
            raise wrong_type(param, "an object")
        if entry.get("type") != "compaction":
            raise refuse(f"{param}.type", "'compaction' is the only kind of context management there is.")
        found = entry.get("compact_threshold")
        if found is not None and (not isinstance(found, int) or isinstance(found, bool) or found < 1):
            raise refuse(f"{param}.compact_threshold", "'compact_threshold' is a number of tokens, 1 or more.")
    return found


def _conversation(value: Any) -> str | None:
    if value is None:
        return None
    found = value.get("id") if isinstance(value, dict) else value
    if not isinstance(found, str):
        raise wrong_type("conversation", "an id or an object with an id")
    if not found.startswith("conv_"):
        raise refuse("conversation", "Invalid 'conversation': expected an id that begins with 'conv_'.")
    return found


def _branch(conversation: Any) -> tuple[bool, str | None]:
    """Whether the turn begins a branch, and the item that it follows on: `parent_id`, null to begin anew."""
    if not isinstance(conversation, dict) or "parent_id" not in conversation:
        return False, None
    if not isinstance(conversation["parent_id"], str | None):
        raise wrong_type("conversation.parent_id", "a string")
    return True, conversation["parent_id"]


def _reasoning(value: dict[str, Any] | None) -> dict[str, Any]:
    """`effort` and `summary`; the older name of the latter is `generate_summary`."""
    given = value or {}
    found = {"effort": given.get("effort"), "summary": given.get("summary") or given.get("generate_summary")}
    for name, known in (("effort", EFFORTS), ("summary", SUMMARIES)):
        if found[name] is not None:
            one_of(found[name], known, f"reasoning.{name}")
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
    "tool_search",
}


def _tools(value: Any) -> list[dict[str, Any]]:
    """The tools with defaults filled in. Hosted ones that this server has not are echoed and not offered."""
    return [_tool(tool, f"tools[{i}]") for i, tool in enumerate(take_tools(value))]


def _tool(tool: Any, param: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise wrong_type(param, "an object")
    kind = tool.get("type")
    if kind == "function":
        return take_function(tool, param, strict=True)
    if kind == "file_search":
        return _file_search(tool, param)
    if kind == "custom":
        return take_custom(tool, param)
    if kind == "namespace":
        return _namespace(tool, param)
    if kind is None:
        raise InvalidRequest(
            f"Missing required parameter: '{param}.type'.", param=f"{param}.type", code="missing_required_parameter"
        )
    if isinstance(kind, str) and (kind in _HOSTED or kind.startswith(("web_search", "computer_use"))):
        for field in ("name", "server_label"):
            if not isinstance(tool.get(field), str | None):
                raise wrong_type(f"{param}.{field}", "a string")
        return tool
    raise refuse(f"{param}.type", f"Invalid value for '{param}.type': {str(kind)[:80]!r}.")


def _namespace(tool: dict[str, Any], param: str) -> dict[str, Any]:
    """Functions under a name; what else is in one is not offered."""
    if not isinstance(tool.get("name"), str):
        raise wrong_type(f"{param}.name", "a string")
    inner = tool.get("tools")
    if not isinstance(inner, list) or not all(isinstance(one, dict) for one in inner):
        raise wrong_type(f"{param}.tools", "an array of tools")
    check_count(len(inner), f"{param}.tools", MAX_TOOLS)
    taken = [
        take_function(one, f"{param}.tools[{i}]", strict=True) if one.get("type") == "function" else one
        for i, one in enumerate(inner)
    ]
    return {**tool, "tools": taken}


def _file_search(tool: dict[str, Any], param: str) -> dict[str, Any]:
    stores = tool.get("vector_store_ids")
    if stores is None:
        raise InvalidRequest(
            f"Missing required parameter: '{param}.vector_store_ids'.",
            param=f"{param}.vector_store_ids",
            code="missing_required_parameter",
        )
    if not isinstance(stores, list) or not all(isinstance(store, str) for store in stores):
        raise wrong_type(f"{param}.vector_store_ids", "an array of strings")
    if not stores or len(stores) > 16:
        raise refuse(f"{param}.vector_store_ids", "Name 1 to 16 vector stores.")
    most = tool.get("max_num_results")
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= 50):
        raise refuse(f"{param}.max_num_results", "'max_num_results' is a whole number from 1 to 50.")
    for field in ("filters", "ranking_options"):
        if not isinstance(tool.get(field), dict | None):
            raise wrong_type(f"{param}.{field}", "an object")
    ranking = {"ranker": "auto", "score_threshold": 0.0, **(tool.get("ranking_options") or {})}
    return {"filters": None, **tool, "max_num_results": most or RESULTS, "ranking_options": ranking}


def _text(value: dict[str, Any] | None) -> dict[str, Any]:
    text = dict(value or {})
    if text.get("verbosity") is not None:
        one_of(text["verbosity"], VERBOSITIES, "text.verbosity")
    form = text.get("format") or {"type": "text"}
    if not isinstance(form, dict):
        raise wrong_type("text.format", "an object")
    one_of(form.get("type"), ("text", "json_object", "json_schema"), "text.format.type")
    return {**text, "format": take_format(form, "text.format") if form["type"] == "json_schema" else form}

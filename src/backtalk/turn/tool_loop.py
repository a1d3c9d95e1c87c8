"""Tools that the server runs within a turn. So far one: `file_search`, over the vector stores that the request names."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from backtalk.core.errors import BacktalkError
from backtalk.core.ids import new_id
from backtalk.core.text import estimate_tokens
from backtalk.domain.items import Item, is_user_message, text_of
from backtalk.domain.model import Tool
from backtalk.domain.turn import Passage, TurnRequest, VectorStores
from backtalk.turn.output import ServerCall

log = logging.getLogger("backtalk.turn")

FILE_SEARCH = "file_search"
MOST_QUERIES = 8
_FILE_SEARCH_TOOL = Tool(
    name=FILE_SEARCH,
    description="Searches the user's documents and returns the passages that fit best. Search before you answer a "
    "question that the documents may settle.",
    parameters={
        "type": "object",
        "properties": {
            "queries": {
                "type": "array",
                "items": {"type": "string"},
                "description": "One to three self-contained search queries.",
            }
        },
        "required": ["queries"],
        "additionalProperties": False,
    },
)

_CUSTOM_INPUT = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


def model_tools(request: TurnRequest) -> list[Tool]:
    """The functions that the model is offered: the client's own, and `file_search` where the request has it.

    All of them, also where only some may be called: the prompt's beginning stays the same from turn to turn.
    """
    spaces = namespaces(request)
    visible = {pair: name for name, pair in spaces.items()}
    tools = []
    for tool in request.tools:
        if tool["type"] == "function":
            tools.append(_function(tool, tool["name"]))
        elif tool["type"] == "namespace":
            tools += [_function(one, visible[tool["name"], one["name"]]) for one in _functions_of(tool)]
        elif tool["type"] == "custom":
            tools.append(Tool(tool["name"], _custom_description(tool), _CUSTOM_INPUT))
        elif tool["type"] == FILE_SEARCH:
            tools.append(_FILE_SEARCH_TOOL)
    return tools


def namespaces(request: TurnRequest) -> dict[str, tuple[str, str]]:
    """(namespace, name) of the functions that stand in one, by the name that the model knows them by."""
    inner = [
        (tool["name"], one["name"])
        for tool in request.tools
        if tool["type"] == "namespace"
        for one in _functions_of(tool)
    ]
    names = [name for _, name in inner] + [_name(tool) for tool in request.tools]
    return {name if names.count(name) == 1 else f"{space}__{name}": (space, name) for space, name in inner}


def _functions_of(namespace: dict[str, Any]) -> list[dict[str, Any]]:
    return [tool for tool in namespace.get("tools") or () if tool.get("type") == "function"]


def _function(tool: dict[str, Any], name: str) -> Tool:
    parameters, strict = tool.get("parameters"), tool.get("strict")
    if strict and not (parameters and _is_strict(parameters)):
        strict = None  # it is OpenAI's default, and not what servers take for every schema
    return Tool(name, tool.get("description") or "", parameters, strict, tool.get("cache_control"))


def _is_strict(schema: Any) -> bool:
    """Whether a schema is of the kind that can be kept to strictly: closed objects, all of their properties required."""
    if isinstance(schema, list):
        return all(map(_is_strict, schema))
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if isinstance(properties, dict) or schema.get("type") == "object":
        required = schema.get("required")
        known = set(properties) if isinstance(properties, dict) else set()
        if (
            schema.get("additionalProperties") is not False
            or not isinstance(required, list)
            or known - {*map(str, required)}
        ):
            return False
    return all(map(_is_strict, schema.values()))


def _name(tool: dict[str, Any]) -> str:
    return str(tool.get("name") or tool.get("type", ""))


def _custom_description(tool: dict[str, Any]) -> str:
    """A custom tool takes text. What the text has to look like, a model that knows functions only is told in words."""
    form = tool.get("format") or {}
    grammar = (
        f"`input` has to match this {form.get('syntax')} grammar:\n{form['definition']}" if "definition" in form else ""
    )
    return "\n\n".join(filter(None, [tool.get("description"), grammar]))


def allowed_tools(request: TurnRequest) -> set[str] | None:
    """The names of what a `tool_choice` of the form `allowed_tools` leaves; None for any other choice."""
    choice = request.tool_choice
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return None
    named = set(map(_name, choice.get("tools", ())))
    return named | {name for name, pair in namespaces(request).items() if named.intersection(pair)}


def model_tool_choice(choice: Any) -> str:
    """The request's `tool_choice` as a model takes it: auto, none, required, or one function's name."""
    if isinstance(choice, str):
        return choice
    if choice.get("type") == "allowed_tools":
        return str(choice.get("mode", "auto"))
    return _name(choice)


def callable_tools(request: TurnRequest, choice: str) -> set[str] | None:
    """The names that a model may call, when it was told `choice`; None where nothing was said against any."""
    if choice == "none":
        return set()
    if choice not in ("auto", "required"):
        return {choice}
    return allowed_tools(request)


def custom_tools(request: TurnRequest) -> set[str]:
    """Names of the client's tools that take text."""
    return {tool["name"] for tool in request.tools if tool["type"] == "custom"}


def server_tools(request: TurnRequest) -> dict[str, dict[str, Any]]:
    """The tools of a request that the server runs itself, by the name that the model calls them."""
    return {tool["type"]: tool for tool in request.tools if tool["type"] == FILE_SEARCH}


class FileSearch:
    """Runs `file_search` calls."""

    def __init__(self, stores: VectorStores, timeout: float) -> None:
        self._stores = stores
        self._timeout = timeout

    def begin(self, call: ServerCall, items: Sequence[Item]) -> Item:
        """The call's item as it is shown first."""
        queries = _queries(call.arguments) or [_question(items)]
        return {
            "id": new_id("fs"),
            "type": "file_search_call",
            "status": "in_progress",
            "queries": [query for query in queries if query.strip()][:MOST_QUERIES],
            "results": None,
        }

    async def run(self, item: Item, tool: dict[str, Any], request: TurnRequest) -> tuple[Item, list[Passage]]:
        """The item with its results. A search that fails or is late is told to the model, and the turn goes on;
        what the request asked wrongly (a store that is not there) is raised."""
        try:
            async with asyncio.timeout(self._timeout):
                found = await self._stores.search(
                    request.caller,
                    tool["vector_store_ids"],
                    item["queries"],
                    limit=tool["max_num_results"],
                    filters=tool.get("filters"),
                    ranking=tool.get("ranking_options"),
                )
        except (TimeoutError, BacktalkError) as error:
            if isinstance(error, BacktalkError) and error.status < 500:
                raise
            log.warning("file_search failed: %s", error or "it took too long")
            return {**item, "status": "failed", "results": []}, []
        results = [
            {
                "file_id": passage.file_id,
                "filename": passage.filename,
                "score": passage.score,
                "text": passage.text,
                "attributes": passage.attributes,
            }
            for passage in found
        ]
        return {**item, "status": "completed", "results": results}, found


def search_receipt(item: Item, passages: Sequence[Passage]) -> dict[str, Any]:
    """What a search brought into the prompt."""
    return {
        "item_id": item["id"],
        "queries": item["queries"],
        "status": item["status"],
        "passages": [
            {
                "file_id": passage.file_id,
                "filename": passage.filename,
                "vector_store_id": passage.store_id,
                "start": passage.start,
                "end": passage.end,
                "score": passage.score,
                "tokens": estimate_tokens(passage.text),
            }
            for passage in passages
        ],
    }


def _queries(arguments: str) -> list[str]:
    """The queries of a call, as well as a model managed to write them."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    found = value.get("queries", value.get("query")) if isinstance(value, dict) else None
    found = [found] if isinstance(found, str) else found
    return [query for query in found if isinstance(query, str)] if isinstance(found, list) else []


def _question(items: Sequence[Item]) -> str:
    """What the user asked last, for a model that called without a query."""
    return next((text_of(item)[:2000] for item in reversed(items) if is_user_message(item)), "")

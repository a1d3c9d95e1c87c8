"""What the scripted model says: a pure function of the prompt."""

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from backtalk.domain.items import CLIENT_CALLS, Item, is_user_message, text_of
from backtalk.domain.model import Prompt, Tool
from backtalk.models.schema import Guess, Schema, fill

_DIRECTIVE = re.compile(r"\[\[(\w+)(?::([\w.:-]+))?\]\]")
_SAY = re.compile(r"(?:repeat after me|say exactly)\s*[:：]\s*(.+)", re.IGNORECASE | re.DOTALL)
_MINE = re.compile(r"what(?:'s|’s| is| was) my ([\w ]+?)\s*\?", re.IGNORECASE)
_RULES = re.compile(r"what (?:are|is) your (?:instructions|system prompt)", re.IGNORECASE)
_PLACE = re.compile(
    r"\b(?:in|at|for|from|to|near|of)\s+((?:[A-Z][\w'’.-]*)(?:[\s-]+[A-Z][\w'’.-]*)*(?:,\s*[A-Z]{2}\b)?)"
)
_ALSO = re.compile(r"(?:,\s*|\s+(?:and|or)\s+|,\s*and\s+)((?:[A-Z][\w'’.-]*)(?:\s+[A-Z][\w'’.-]*)*)")
_CAPITALISED = re.compile(r"(?<!^)(?<![.!?]\s)\b[A-Z][\w'’-]*(?:\s+[A-Z][\w'’-]*)*")
_QUOTED = re.compile(r"(?<!\w)(['\"`])(.{1,200}?)\1(?!\w)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_SUM = re.compile(r"[\d(][\d\s.+*/()^-]*[\d)]")
_ABOUT_FILES = re.compile(r"[?？]|\b(documents?|files?|passages?|according to|look up|search)\b", re.IGNORECASE)
_GENERIC = {
    "get",
    "set",
    "find",
    "list",
    "create",
    "make",
    "the",
    "and",
    "for",
    "with",
    "tool",
    "function",
    "run",
    "fetch",
}
_PLACES = {"location", "city", "place", "destination", "town", "country", "region", "address"}
_OUTPUTS = ("function_call_output", "custom_tool_call_output")
_WHOLE = {"query", "question", "text", "message", "input", "prompt", "content", "q", "search", "body", "request"}


class Call(msgspec.Struct, frozen=True):
    name: str
    arguments: str


class Reply(msgspec.Struct, frozen=True):
    """What to say or call. `source` is the file (id, name) that the text rests on."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    source: tuple[str, str] | None = None


def directives(prompt: Prompt) -> dict[str, str]:
    """The `[[name:value]]` of the last user message."""
    return dict(_DIRECTIVE.findall(_last_user_text(prompt)))


def reply_to(prompt: Prompt) -> Reply:
    """What the scripted model answers: a tool's call, a tool's output, JSON, something told before, or an echo."""
    asked = _DIRECTIVE.sub("", _last_user_text(prompt)).strip()
    fresh = _since_user(prompt.items)
    calls = _calls(prompt, asked, fresh)
    if calls:
        return Reply(calls=tuple(calls if prompt.parallel_tool_calls else calls[:1]))
    if prompt.text_format and prompt.text_format.get("type") in ("json_schema", "json_object"):
        return Reply(_json(prompt, prompt.text_format, asked))
    return _from_files(fresh) or Reply(_from_outputs(fresh) or _from_talk(prompt, asked) or _echo(prompt, asked))


def _last_user_message(prompt: Prompt) -> Item:
    return next((item for item in reversed(prompt.items) if is_user_message(item)), {})


def _last_user_text(prompt: Prompt) -> str:
    return text_of(_last_user_message(prompt))


def _echo(prompt: Prompt, asked: str) -> str:
    """What the user said and sent."""
    content = _last_user_message(prompt).get("content")
    parts = content if isinstance(content, list) else []
    images = sum(part.get("type") == "input_image" for part in parts)
    said = [f"You said: {asked}"]
    if images:
        said.append(f"You sent {images} image{'s' * (images > 1)}.")
    said += [f"You sent the file {part.get('filename')}." for part in parts if part.get("file_data")]
    return " ".join(said)


def _since_user(items: list[Item]) -> list[Item]:
    fresh: list[Item] = []
    for item in reversed(items):
        if is_user_message(item):
            break
        fresh.insert(0, item)
    return fresh


def _calls(prompt: Prompt, asked: str, fresh: list[Item]) -> list[Call]:
    tools = [tool for tool in prompt.tools if prompt.allowed_tools is None or tool.name in prompt.allowed_tools]
    if not tools or prompt.tool_choice == "none":
        return []
    if prompt.tool_choice in ("auto", "required"):
        answered = any(item.get("type") in (*_OUTPUTS, "file_search_call", "mcp_call") for item in fresh)
        tool = None if answered and prompt.tool_choice == "auto" else _fitting(_uncalled(tools, fresh), asked, fresh)
        if tool is None and prompt.tool_choice == "required" and not _served(fresh):
            tool = _uncalled(tools, fresh)[0]
    else:
        tool = next((tool for tool in tools if tool.name == prompt.tool_choice), None)
        tool = None if tool and tool.name == "file_search" and _searched(fresh) else tool
    return list(_calls_of(tool, asked)) if tool else []


def _uncalled(tools: list[Tool], fresh: list[Item]) -> list[Tool]:
    """The tools that were not called for this question yet; all of them if there is no such tool."""
    called = {item.get("name") for item in fresh if item.get("type") in CLIENT_CALLS}
    return [tool for tool in tools if tool.name not in called] or tools


def _searched(fresh: list[Item]) -> bool:
    return any(item.get("type") == "file_search_call" for item in fresh)


def _served(fresh: list[Item]) -> bool:
    """Whether the server has run a tool for this turn, so that a required call was made."""
    return any(item.get("type") in ("file_search_call", "mcp_call") for item in fresh)


def _fitting(tools: list[Tool], asked: str, fresh: list[Item]) -> Tool | None:
    """The tool whose name shares most words with the question; else file_search, for a question about files."""
    words = _words(asked)
    best = max(tools, key=lambda tool: len(words & _words(tool.name)) + (tool.name in asked))
    if words & _words(best.name) or best.name in asked:
        return None if best.name == "file_search" and _searched(fresh) else best
    search = next((tool for tool in tools if tool.name == "file_search"), None)
    return search if _ABOUT_FILES.search(asked) and not _searched(fresh) else None


def _words(text: str) -> set[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|[_-]", " ", text)
    return {word.rstrip("s") for word in re.findall(r"\w+", spaced.lower()) if len(word) > 2} - _GENERIC


def _calls_of(tool: Tool, asked: str) -> Iterator[Call]:
    if tool.name == "file_search":
        yield Call(tool.name, _dump({"queries": [asked]}))
        return
    made = set()
    for place in _places(asked) or [None]:
        arguments = _dump(fill(tool.parameters, _guesser(asked, place)))
        if arguments not in made:
            made.add(arguments)
            yield Call(tool.name, arguments)


def _places(text: str) -> list[str | None]:
    """Places of "the weather in Paris and San Francisco"."""
    first = _PLACE.search(text)
    if not first:
        return []
    places: list[str | None] = [first[1]]
    end = first.end()
    while more := _ALSO.match(text, end):
        places.append(more[1])
        end = more.end()
    return places


def _guesser(asked: str, place: str | None) -> Guess:
    numbers = iter(_NUMBER.findall(asked))
    names = [match[2] for match in _QUOTED.finditer(asked)] + [match[0] for match in _CAPITALISED.finditer(asked)]

    def guess(name: str, schema: Schema) -> Any:
        if schema.get("enum"):
            return next((one for one in schema["enum"] if re.search(rf"\b{re.escape(str(one))}", asked, re.I)), None)
        if schema.get("type") in ("integer", "number"):
            return float(next(numbers, "1"))
        if schema.get("type") == "boolean":
            return True
        words = set(re.findall(r"[a-z]+", name.lower()))
        if words & _PLACES:
            return place or (names[0] if names else None)
        if words & _WHOLE:
            return asked or None
        if "expression" in words and (found := _SUM.search(asked)):
            return found[0].strip()
        return names[0] if names else None

    return guess


def _json(prompt: Prompt, text_format: dict[str, Any], asked: str) -> str:
    """JSON that fits the schema; where there is none, one that the prompt shows, or the keys that it quotes."""
    schema = text_format.get("schema") or _schema_shown(prompt)
    if text_format["type"] == "json_object" and not schema:
        keys = [match[2] for match in _QUOTED.finditer(asked)]
        return _dump(dict.fromkeys(keys or ["answer"], asked))
    places = _places(asked)
    return _dump(fill(schema, _guesser(asked, places[0] if places else None)))


def _schema_shown(prompt: Prompt) -> Schema | None:
    """A JSON schema with properties in the instructions or the messages."""
    text = "\n".join([prompt.instructions or "", *map(text_of, prompt.items)])
    starts = re.finditer(r"\{", text) if '"properties"' in text else ()
    for match in starts:
        with contextlib.suppress(ValueError, RecursionError):
            shown: Schema = json.JSONDecoder().raw_decode(text, match.start())[0]
            if isinstance(shown.get("properties"), dict):
                return shown
    return None


def _dump(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _from_files(fresh: list[Item]) -> Reply | None:
    searches = [item for item in fresh if item.get("type") == "file_search_call"]
    if not searches:
        return None
    results = [result for item in searches for result in item.get("results") or ()]
    if not results:
        return Reply("I found nothing in the files.")
    best = max(results, key=lambda result: float(result.get("score") or 0))
    quote = " ".join(best["text"].split()[:40])
    return Reply(f"According to {best['filename']}: {quote}", source=(best["file_id"], best["filename"]))


def _from_outputs(fresh: list[Item]) -> str:
    names = {item["call_id"]: item["name"] for item in fresh if item.get("type") in CLIENT_CALLS}
    outputs = [item for item in fresh if item.get("type") in _OUTPUTS]
    said = [f"{names.get(item['call_id'], 'the tool')} says: {text_of(item)}" for item in outputs]
    said += [f"{item['name']} says: {item.get('output') or ''}" for item in fresh if item.get("type") == "mcp_call"]
    return "\n".join(said)


def _from_talk(prompt: Prompt, asked: str) -> str:
    if say := _SAY.search(asked):
        return say[1].strip()
    if _RULES.search(asked):
        system = [text_of(item) for item in prompt.items if item.get("role") in ("system", "developer")]
        return "\n".join(filter(None, [prompt.instructions, *system])) or "I have no instructions."
    if mine := _MINE.search(asked):
        return _told(prompt, mine[1].lower())
    return ""


def _told(prompt: Prompt, what: str) -> str:
    """What the user said of themselves in an earlier message, the latest first."""
    pattern = re.compile(rf"\bmy {re.escape(what)} (?:is|was|are) ([^.!?\n]+)", re.IGNORECASE)
    if what == "name":
        pattern = re.compile(r"\b(?:my name is|i am|i'm|call me)\s+([A-Z][\w'’ -]*)", re.IGNORECASE)
    for item in reversed(prompt.items):
        if is_user_message(item) and (found := pattern.search(text_of(item))):
            return f"Your {what} is {found[1].strip()}."
    return f"You have not told me your {what}."

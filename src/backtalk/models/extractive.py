"""`backtalk/extractive`: answers offline by quoting what the turn has found, and says what it is."""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from itertools import islice
from typing import Any

import msgspec

from backtalk.core.ids import new_id
from backtalk.core.text import estimate_tokens
from backtalk.domain.items import Item, is_user_message, text_of
from backtalk.domain.model import CitationDelta, Delta, Finish, Prompt, TextDelta, Tool, ToolCallDelta, Usage
from backtalk.models.reading import fits, quotes, shortened, terms
from backtalk.models.schema import Schema, fill
from backtalk.models.words import CJK, cut_at_stop, pieces, prompt_tokens

_FOLLOW_UP = re.compile(
    r"\b(?:it|its|he|his|him|she|her|they|their|them|this|that|these|those|there|one|ones)\b"
    r"|^(?:and|but|so|also|what about|how about)\b|[他她它那这其]|それ|그",
    re.IGNORECASE,
)
_OUTPUTS = ("function_call_output", "custom_tool_call_output")
_SHORT = 2
_WORDS_IN_A_READ = 4
_QUOTED = re.compile(f"[{CJK}]")
_NOTHING = "I found nothing in the files that answers this."
_NOTHING_IN = (
    (re.compile("[\u3040-\u30ff]"), "ファイルの中に答えは見つかりませんでした。"),
    (re.compile("[\uac00-\ud7af]"), "파일에서 답을 찾지 못했습니다."),
    (re.compile("[\u4e00-\u9fff]"), "我在文件中没有找到答案。"),
)
INTRODUCTION = (
    "I am Backtalk's built-in extractive reader: no language model is connected, so all I can do is quote what your "
    "files and this conversation say, and nothing there answers this. To let me look into your files, pass "
    'tools=[{"type": "file_search", "vector_store_ids": ["vs_…"]}]. To connect a real model, set OPENAI_API_KEY, or set '
    "BACKTALK_UPSTREAM to the base URL of any OpenAI-compatible server, or run Ollama on this machine, and start "
    "Backtalk again."
)


class ExtractiveReader:
    """Searches the files that it is offered, quotes the best sentences and cites them. No LLM, no network.

    `structured`: it fills the schema of `Prompt.text_format`. `writes` is False: it quotes, it cannot summarise.
    """

    id = "backtalk/extractive"
    structured = True
    writes = False

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        """As `domain.model.Model.stream`, a few words for each read."""
        deltas = _finished(_answer(prompt), prompt)
        while read := list(islice(deltas, _WORDS_IN_A_READ)):
            yield read
            await asyncio.sleep(0)


def _answer(prompt: Prompt) -> Iterator[Delta]:
    question = _last_question(prompt.items)
    context = _question_before(prompt.items) if _is_follow_up(question) else ""
    fresh = _since_user(prompt.items)
    searches = [item for item in fresh if item.get("type") == "file_search_call"]
    tool = _tool_to_call(prompt, question, fresh, bool(searches))
    if tool:
        yield from _call(tool, question, context)
    elif prompt.text_format and prompt.text_format.get("type", "text") != "text":
        spoken = _spoken(question, context, searches, prompt)
        yield from _json(prompt, "".join(delta.text for delta in spoken if isinstance(delta, TextDelta)))
    else:
        yield from _spoken(question, context, searches, prompt)


def _last_question(items: Sequence[Item]) -> str:
    return next((text_of(item).strip() for item in reversed(items) if is_user_message(item)), "")


def _question_before(items: Sequence[Item]) -> str:
    """What the assistant answered last."""
    answered = max((place for place, item in enumerate(items) if item.get("role") == "assistant"), default=0)
    return _last_question(items[:answered])


def _since_user(items: list[Item]) -> list[Item]:
    last = max((place for place, item in enumerate(items) if is_user_message(item)), default=-1)
    return items[last + 1 :]


def _is_follow_up(question: str) -> bool:
    return len(terms(question)) <= _SHORT or bool(_FOLLOW_UP.search(question))


def _tool_to_call(prompt: Prompt, question: str, fresh: list[Item], searched: bool) -> Tool | None:
    """file_search once in a turn; another tool only when the caller insists and it has not been called yet."""
    if prompt.tool_choice == "none":
        return None
    named = {
        tool.name: tool for tool in prompt.tools if prompt.allowed_tools is None or tool.name in prompt.allowed_tools
    }
    search = named.get("file_search")
    if search and not searched and prompt.tool_choice in ("auto", "required", search.name):
        return search if terms(question) or prompt.tool_choice != "auto" else None
    if searched or any(item.get("type") in (*_OUTPUTS, "mcp_call") for item in fresh):
        return None
    if prompt.tool_choice == "required":
        return next(iter(named.values()), None)
    return named.get(prompt.tool_choice)


def _call(tool: Tool, question: str, context: str) -> Iterator[Delta]:
    if tool.name == "file_search":
        arguments: Any = {"queries": [question, f"{context} {question}"] if context else [question]}
    else:
        arguments = fill(tool.parameters, lambda name, schema: question or None)
    yield ToolCallDelta(0, call_id=new_id("call"), name=tool.name)
    yield ToolCallDelta(0, msgspec.json.encode(arguments).decode())


def _spoken(question: str, context: str, searches: list[Item], prompt: Prompt) -> Iterator[Delta]:
    results = _merged(searches)
    if results:
        yield from _quoted(question, context, results, prompt.stop)
    elif searches:
        yield from _said(next((text for script, text in _NOTHING_IN if script.search(question)), _NOTHING))
    else:
        yield from _said(cut_at_stop(_from_talk(question, prompt.items), prompt.stop))


def _merged(searches: list[Item]) -> list[dict[str, Any]]:
    """The results of all searches of the turn, the best first, each passage once."""
    unique = {(r["file_id"], r["text"]): r for item in searches for r in item.get("results") or () if r["text"].strip()}
    return sorted(unique.values(), key=_score, reverse=True)


def _score(result: dict[str, Any]) -> float:
    return float(result.get("score") or 0.0)


def _quoted(question: str, context: str, results: list[dict[str, Any]], stop: list[str] | None) -> Iterator[Delta]:
    texts = [result["text"] for result in results]
    for number, quote in enumerate(quotes(question, context, texts, list(map(_score, results)))):
        wide = bool(_QUOTED.search(quote.text))
        text = ("「{}」" if wide else "“{}”").format(shortened(quote.text))
        yield from _said(cut_at_stop(text if wide or not number else f" {text}", stop))
        yield CitationDelta(results[quote.passage]["file_id"], results[quote.passage]["filename"])


def _from_talk(question: str, items: list[Item]) -> str:
    told = [text_of(item) for item in items if item.get("type") == "message" and item.get("role") != "assistant"][:-1]
    told += [r["text"] for item in items if item.get("type") == "file_search_call" for r in item.get("results") or ()]
    outputs = [text_of(item) for item in _since_user(items) if item.get("type") in _OUTPUTS]
    if outputs:
        return "\n".join(outputs)
    quote = fits(question, told)
    return f"Earlier in this conversation: “{shortened(quote)}”" if quote else INTRODUCTION


def _json(prompt: Prompt, answer: str) -> Iterator[Delta]:
    text_format = prompt.text_format or {}

    def guess(name: str, schema: Schema) -> Any:
        return answer

    value = fill(text_format["schema"], guess) if text_format.get("schema") else {"answer": answer}
    yield from _said(msgspec.json.encode(value).decode())


def _said(text: str) -> Iterator[TextDelta]:
    return map(TextDelta, pieces(text))


def _finished(deltas: Iterator[Delta], prompt: Prompt) -> Iterator[Delta]:
    """The deltas up to `max_output_tokens`, then the `Finish` with estimated usage."""
    reason = "stop"
    usage = Usage(input_tokens=prompt_tokens(prompt))
    for delta in deltas:
        cost = _cost(delta)
        calls = isinstance(delta, ToolCallDelta)
        if not calls and prompt.max_output_tokens is not None and usage.output_tokens + cost > prompt.max_output_tokens:
            reason = "length"
            break
        usage.output_tokens += cost
        reason = "tool_calls" if calls else reason
        yield delta
    yield Finish(reason, usage)


def _cost(delta: Delta) -> int:
    match delta:
        case TextDelta(text=text) | ToolCallDelta(arguments=text):
            return estimate_tokens(text)
    return 0

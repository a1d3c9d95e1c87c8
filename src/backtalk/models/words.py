"""Text cut into pieces of about a token, for models that have no tokenizer."""

import re
from collections.abc import Iterable

from backtalk.core.text import estimate_tokens
from backtalk.domain.items import text_of
from backtalk.domain.model import Prompt

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_PIECE = re.compile(rf"\s*(?:[{CJK}]|[^\s{CJK}]+)|\s+")


def pieces(text: str) -> list[str]:
    """Words with the space before them, CJK characters one by one. Joined they are `text` again."""
    return _PIECE.findall(text)


def cut_at_stop(text: str, stop: Iterable[str] | None) -> str:
    """`text` up to the first of the stop sequences."""
    ends = [text.find(one) for one in stop or () if one and one in text]
    return text[: min(ends)] if ends else text


def prompt_tokens(prompt: Prompt) -> int:
    """Roughly what a prompt costs."""
    texts = [prompt.instructions or "", *map(text_of, prompt.items)]
    texts += [
        result["text"]
        for item in prompt.items
        if item.get("type") == "file_search_call"
        for result in item.get("results") or ()
    ]
    texts += [f"{tool.name} {tool.description} {tool.parameters}" for tool in prompt.tools]
    return sum(map(estimate_tokens, texts))

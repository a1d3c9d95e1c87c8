"""A model for tests: deterministic, obedient, and able to fail when told to."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import msgspec

from backtalk.core.errors import RateLimited, UpstreamError
from backtalk.core.ids import new_id
from backtalk.domain.model import (
    CitationDelta,
    Delta,
    Finish,
    Prompt,
    ReasoningDelta,
    RefusalDelta,
    ScoredTextDelta,
    SealedReasoning,
    SummaryDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from backtalk.models.words import cut_at_stop, pieces, prompt_tokens
from backtalk.testing.replies import Reply, directives, reply_to

Step: TypeAlias = str | Sequence[Delta] | Exception
_REFUSAL = "I'm sorry, but I cannot help with that."
_SUMMARY = ("The user asks for something.", "A short answer will do.")
_REMEMBERED = 100


class ScriptedModel:
    """Answers without an LLM, always the same way. Serve it: `BACKTALK_MODELS=backtalk.testing:ScriptedModel`.

    With a `script` its steps answer the calls in turn: a text, a list of deltas, or an exception to raise. Without one,
    or when it has run out, the model reacts to the prompt:

    - It obeys `tool_choice`, `parallel_tool_calls`, `max_output_tokens` (a word is a token), `stop` and `text_format`;
      arguments and JSON are filled from their schemas, with words of the question where they fit, what it quotes first.
      Asked for any JSON, it fills a schema that the prompt shows, or the keys that the question quotes.
    - "What's the weather like in San Francisco?" calls a tool whose name speaks of weather; a question calls
      `file_search` when that is offered; the next call quotes what the tool said, or cites the best passage.
    - "Say exactly: …" and "Repeat after me: …" are obeyed. "What is my name?" is answered from what the user said
      before, "What are your instructions?" from the instructions. Everything else is echoed: "You said: …", with the number
      of images and the names of files that came with it: "You sent 2 images. You sent the file a.pdf."
    - Where `logprobs` are asked for, each word is a token that it is certain of.

    Directives in the last user message steer it:

    - `[[tokens:200]]` an answer of 200 words; `[[pace:0.01]]` seconds between them; `[[think]]` thinks aloud first;
      `[[summarise]]` sums its thinking up in two parts, and seals it
    - `[[refuse]]` refuses; `[[fail:before]]` fails at once; `[[fail:after:5]]` after five deltas; `[[fail:429]]` is
      limited; `[[stall]]` stays silent for ever, `[[stall:5]]` after five deltas

    With `structured=False` it knows no `text_format` and answers in prose, as such a model would; its script decides
    what it says. `files` is True: it takes `input_file` parts as they are. `prompts` holds the prompts of the last calls.
    """

    files = True

    def __init__(
        self,
        script: Iterable[Step] | None = None,
        *,
        pace: float = 0.0,
        id: str = "scripted",  # noqa: A002  # the public name of a model's id
        structured: bool = True,
    ) -> None:
        self.id = id
        self.pace = pace
        self.structured = structured
        self.prompts: deque[Prompt] = deque(maxlen=_REMEMBERED)
        self._script = iter(script or ())

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        """As `domain.model.Model.stream`; a delta for each read."""
        self.prompts.append(prompt)
        told = directives(prompt)
        deltas = self._next_step(prompt, told)
        pace = float(told.get("pace", self.pace))
        for position, delta in enumerate(deltas):
            await _obey(told, position)
            await asyncio.sleep(pace if position else 0)
            yield [delta]

    def _next_step(self, prompt: Prompt, told: dict[str, str]) -> list[Delta]:
        step = next(self._script, None)
        if isinstance(step, Exception):
            raise step
        if step is None:
            known = prompt if self.structured else msgspec.structs.replace(prompt, text_format=None)
            step = list(_reaction(known, told))
        elif isinstance(step, str):
            step = list(_text(step))
        if prompt.logprobs is not None:
            step = [_scored(delta, prompt.logprobs) for delta in step]
        return _finished(list(step), prompt)


async def _obey(told: dict[str, str], position: int) -> None:
    """Fails or falls silent where a directive says so."""
    fail = told.get("fail", "")
    if fail == "429":
        raise RateLimited("The scripted model was told to be limited.", retry_after=1.0)
    if fail == "before" or fail == f"after:{position}":
        raise UpstreamError("The scripted model was told to fail.")
    if "stall" in told and position >= int(told["stall"] or 0):
        await asyncio.Event().wait()


def _reaction(prompt: Prompt, told: dict[str, str]) -> Iterator[Delta]:
    yield from _thinking(told)
    if "refuse" in told:
        yield from map(RefusalDelta, pieces(_REFUSAL))
    elif "tokens" in told:
        yield from (TextDelta(f"word{number} ") for number in range(int(told["tokens"])))
    else:
        yield from _reply(reply_to(prompt), prompt.stop)


def _thinking(told: dict[str, str]) -> Iterator[Delta]:
    if "summarise" in told:
        yield from (SummaryDelta(piece, part) for part, text in enumerate(_SUMMARY) for piece in pieces(text))
    if "think" in told:
        yield from map(ReasoningDelta, pieces("Let me think about that."))
    if "summarise" in told:
        yield SealedReasoning("sealed")


def _reply(reply: Reply, stop: list[str] | None) -> Iterator[Delta]:
    yield from _text(cut_at_stop(reply.text, stop))
    if reply.source:
        yield CitationDelta(*reply.source)
    for index, call in enumerate(reply.calls):
        yield ToolCallDelta(index, call_id=new_id("call"), name=call.name)
        yield from (ToolCallDelta(index, piece) for piece in pieces(call.arguments))


def _text(text: str) -> Iterator[Delta]:
    return map(TextDelta, pieces(text))


def _scored(delta: Delta, most: int) -> Delta:
    """Text as one token that the model is certain of, with the only alternative that it sees."""
    if type(delta) is not TextDelta:
        return delta
    token: dict[str, Any] = {"token": delta.text, "bytes": list(delta.text.encode()), "logprob": 0.0}
    return ScoredTextDelta(delta.text, ({**token, "top_logprobs": [token] if most else []},))


def _finished(deltas: list[Delta], prompt: Prompt) -> list[Delta]:
    """The deltas up to `max_output_tokens`, with a `Finish` if the script has none."""
    if deltas and isinstance(deltas[-1], Finish):
        return deltas
    most = prompt.max_output_tokens
    reason = "tool_calls" if any(isinstance(delta, ToolCallDelta) for delta in deltas) else "stop"
    spoken: list[Delta] = [delta for delta in deltas if not isinstance(delta, (CitationDelta, SealedReasoning))]
    if most is not None and len(spoken) > most and reason == "stop":
        deltas, spoken, reason = spoken[:most], spoken[:most], "length"
    thought = sum(isinstance(delta, (ReasoningDelta, SummaryDelta)) for delta in deltas)
    usage = Usage(input_tokens=prompt_tokens(prompt), output_tokens=len(spoken), reasoning_tokens=thought)
    return [*deltas, Finish(reason, usage)]

"""What is demanded of a model's answer besides being one: a format, a call, words. It is looked at before it is shown."""

from collections.abc import Collection, Sequence

from backtalk.core.errors import UpstreamError
from backtalk.domain.items import Item, output_text
from backtalk.domain.model import CitationDelta, Delta, Finish, RefusalDelta, TextDelta, ToolCallDelta
from backtalk.turn.structured import Format

TRIES = 3
"""How often a model is asked before its disobedience fails the response."""
_CUT_SHORT = ("length", "content_filter")
_CALL = "You have not called a tool. Call one of the tools now; say nothing else."
_SPEAK = "No tool can be called now. Answer in words."


class Demand:
    """Looks at one answer, and holds it back until it is known to be what was demanded.

    `form` is the format of its text, `call` whether a tool has to be called, `allowed` the names of those that may be
    (None: any): a call of another one is dropped. An answer that stop sequences may have cut short (`stopped`) is taken as it
    is. A model that keeps to formats by itself (`trusted`) is shown as it
    speaks, once its first character could be JSON; it is checked all the same.
    """

    def __init__(
        self, form: Format | None, *, call: bool, allowed: Collection[str] | None, trusted: bool, stopped: bool = False
    ) -> None:
        self.finish: Finish | None = None
        self._form = form
        self._call = call
        self._allowed = allowed
        self._trusted = trusted
        self._stopped = stopped
        self._held: list[Delta] = []
        self._texts: list[str] = []
        self._dropped: set[int] = set()
        self._showing = form is None and not call
        self._started = False
        self._refused = False

    @property
    def unseen(self) -> str:
        """What it wrote and nobody was shown."""
        return "".join(delta.text for delta in self._held if isinstance(delta, TextDelta))

    def feed(self, deltas: Sequence[Delta]) -> list[Delta]:
        """What of it may be shown now."""
        shown: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, Finish):
                self.finish = delta
            elif isinstance(delta, TextDelta):
                self._texts.append(delta.text)
                shown += self._text(delta)
            elif isinstance(delta, CitationDelta) and not self._showing:
                self._held.append(delta)
            elif isinstance(delta, ToolCallDelta):
                shown += self._tool_call(delta)
            elif isinstance(delta, RefusalDelta):
                self._refused = True
                shown += [*self._let_go(), delta]
            else:
                shown.append(delta)
        return shown

    def judge(self, *, called: bool, spoke: bool) -> tuple[list[Delta], str | None]:
        """(what is still to be shown, what to remind the model of) at its end, knowing what was shown of it.

        Raises UpstreamError for an answer that was shown already and broke its format at the end.
        """
        if self.finish and self.finish.reason in _CUT_SHORT:
            return self._release(), None
        if called or self._refused:
            return [], None
        if self._call:
            return [], f"{_CALL} These can be called: {', '.join(sorted(self._allowed))}." if self._allowed else _CALL
        if self._form is not None and self._texts:
            return self._judge_format(self._form, "".join(self._texts))
        return [], None if spoke or self._texts else self._words()

    def _words(self) -> str:
        names = ", ".join(sorted(self._allowed or ()))
        return f"That cannot be called now. Call one of these, or answer in words: {names}." if names else _SPEAK

    def repeated(self, reminder: str) -> list[Item]:
        """The talk of a try that failed, for the next one's prompt."""
        said = "".join(self._texts)
        answer: list[Item] = [_message("assistant", said)] if said else []
        return [*answer, _message("user", reminder)]

    def _judge_format(self, form: Format, text: str) -> tuple[list[Delta], str | None]:
        problem = form.problem(text)
        if problem is None or self._stopped:
            return self._release(), None
        if self._showing:
            raise disobeyed(f"its answer is not what text.format demands: {problem}")
        if found := form.find(text):
            self._held = []
            return [TextDelta(found)], None
        return [], f"Your answer cannot be used: {problem}. {form.words}"

    def _text(self, delta: TextDelta) -> list[Delta]:
        if self._showing:
            return [delta]
        self._held.append(delta)
        if self._started or self._call or self._form is None or not (first := delta.text.lstrip()[:1]):
            return []
        self._started = True
        return self._release() if self._trusted and first in self._form.starts else []

    def _tool_call(self, delta: ToolCallDelta) -> list[Delta]:
        if delta.index in self._dropped:
            return []
        if delta.name and self._allowed is not None and delta.name not in self._allowed:
            self._dropped.add(delta.index)
            return []
        return [*self._let_go(), delta]

    def _let_go(self) -> list[Delta]:
        """It calls or refuses. What it said before is shown, but for prose where JSON was asked for."""
        return self._release() if self._form is None else []

    def _release(self) -> list[Delta]:
        held, self._held, self._showing = self._held, [], True
        return held


def disobeyed(what: str) -> UpstreamError:
    """The error of a model that does not do what the request demands of it."""
    return UpstreamError(f"The model did not do what the request demands: {what}.", reason="upstream_disobeyed")


def _message(role: str, text: str) -> Item:
    part = output_text(text) if role == "assistant" else {"type": "input_text", "text": text}
    return {"type": "message", "role": role, "content": [part], "status": "completed"}

"""The body of `POST /v1/completions`, the older form, and how it becomes turns: one for each prompt."""

from typing import Annotated, Any

from pydantic import BaseModel, Field, WithJsonSchema

from backtalk.core.errors import InvalidRequest
from backtalk.domain.caller import Caller
from backtalk.domain.turn import TurnRequest
from backtalk.turn import chat_wire
from backtalk.turn.chat_wire import MAX_CHOICES, CreateChatCompletion

_PROMPT = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_DEFAULT_TOKENS = 16
"""What OpenAI gives when a request names no limit."""


class CreateCompletion(BaseModel):
    """Texts in, texts out."""

    prompt: Annotated[Any, WithJsonSchema(_PROMPT)] = Field(description="A text, or several.")
    model: str | None = Field(default=None, description="A model id of `GET /v1/models`. Default: this server's.")
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES, description="How many answers to each prompt.")
    best_of: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1, description="16 by default.")
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    stop: Any = Field(default=None, description="A string, or up to four.")
    seed: int | None = None
    logprobs: int | None = Field(default=None, ge=0, le=5)
    echo: bool | None = Field(default=None, description="Give the prompt back in front of the text.")
    suffix: str | None = None
    user: str | None = None

    model_config = {
        "extra": "allow",
        "strict": True,
        "json_schema_extra": {"examples": [{"prompt": "Say something about the harvest."}]},
    }


def to_turns(body: CreateCompletion, caller: Caller, request_id: str | None) -> list[TurnRequest]:
    """The turns that a body asks for. Raises InvalidRequest."""
    if body.best_of is not None and body.best_of > (body.n or 1):
        raise _refuse("best_of", "'best_of' beyond 'n' is not offered here: all answers are given.")
    if body.suffix:
        raise _refuse("suffix", "'suffix' is not offered here.")
    turns = []
    for text in _prompts(body.prompt):
        chat = CreateChatCompletion(
            messages=[{"role": "user", "content": text}],
            model=body.model,
            stream=body.stream,
            stream_options=body.stream_options,
            max_tokens=body.max_tokens or _DEFAULT_TOKENS,
            temperature=body.temperature,
            top_p=body.top_p,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            stop=body.stop,
            seed=body.seed,
            logprobs=True if body.logprobs is not None else None,
            top_logprobs=body.logprobs,
            user=body.user,
        )
        turns.append(chat_wire.to_turn(chat, caller, request_id))
    return turns


def echoes(body: CreateCompletion) -> list[str]:
    """What stands in front of each prompt's text."""
    return _prompts(body.prompt) if body.echo else [""] * len(_prompts(body.prompt))


def _prompts(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise InvalidRequest(
            "Invalid type for 'prompt': expected a string or an array of strings.", param="prompt", code="invalid_type"
        )
    if not all(isinstance(text, str) for text in texts):
        raise _refuse("prompt", "'prompt' is text: token ids belong to a tokenizer that is not ours.")
    if len(texts) > MAX_CHOICES:
        raise _refuse("prompt", f"'prompt' has {len(texts)} texts; at most {MAX_CHOICES} are allowed.")
    return texts


def _refuse(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="invalid_value")

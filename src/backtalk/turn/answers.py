"""What `/v1/responses` and `/v1/chat/completions` answer, for `/openapi.json`."""

from typing import Any, Literal

from msgspec import Struct

from backtalk.conversations.answers import ItemObject
from backtalk.http.openapi import Listing


class ResponseUsage(Struct):
    """Tokens, as the model's server counted them."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class ResponseError(Struct):
    """Why a response failed."""

    code: str
    message: str


class ResponseObject(Struct):
    """A turn of talk. The answer's text is in the `content` of the items of type `message` in `output`."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "failed", "incomplete", "cancelled"]
    error: ResponseError | None
    incomplete_details: dict[str, str] | None
    model: str
    previous_response_id: str | None
    output: list[ItemObject]
    usage: ResponseUsage | None
    metadata: dict[str, str]


class InputTokens(Struct):
    """The tokens that a prompt would have."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class CompactedResponse(Struct):
    """A talk made short: the user's messages, then one item of type `compaction`."""

    id: str
    object: Literal["response.compaction"]
    created_at: int
    output: list[ItemObject]
    usage: ResponseUsage


class ContextReceipt(Struct):
    """What a prompt was made of: items and pieces with their cost in estimated tokens, searches, and what was cut."""

    object: Literal["response.context"]
    response_id: str
    token_limit: int
    estimated_tokens: int
    items: list[dict[str, Any]]
    pieces: list[dict[str, Any]]
    searches: list[dict[str, Any]]
    cut: list[dict[str, Any]]


class ChatMessage(Struct):
    """The answer: `content`, or `tool_calls` in an extra field."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None


class ChatChoice(Struct):
    """One answer."""

    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"]


class ChatUsage(Struct):
    """Tokens, as the model's server counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(Struct):
    """A chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage


class ChatCompletionList(Listing):
    """A page of stored chat completions."""

    data: list[ChatCompletion]


class StoredMessage(Struct):
    """A message of a stored chat completion."""

    id: str
    role: str
    content: str | None


class ChatMessageList(Listing):
    """A page of messages."""

    data: list[StoredMessage]


class TextChoice(Struct):
    """One text."""

    index: int
    text: str
    finish_reason: Literal["stop", "length", "content_filter"]


class TextCompletion(Struct):
    """A text completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: ChatUsage


class MessageUsage(Struct):
    """Tokens. What came from a cache or went into one is not among the `input_tokens`."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class MessageObject(Struct):
    """A message. Its blocks are of type `text`, `tool_use`, `thinking` or `redacted_thinking`."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"]
    stop_sequence: str | None
    usage: MessageUsage


class MessageTokens(Struct):
    """The tokens that a prompt would have."""

    input_tokens: int


class MessagesProblem(Struct):
    """`message` begins with the place that is wrong, as in `messages.0.content.1.type`."""

    type: str
    message: str


class MessagesError(Struct):
    """An error, in Anthropic's shape."""

    type: Literal["error"]
    error: MessagesProblem
    request_id: str | None


ANSWERS = (
    ResponseObject,
    InputTokens,
    CompactedResponse,
    ContextReceipt,
    ChatCompletion,
    ChatCompletionList,
    ChatMessageList,
    TextCompletion,
    MessageObject,
    MessageTokens,
    MessagesError,
)

RESPONSE_STREAM = """\
event: response.created
data: {"type":"response.created","sequence_number":0,"response":{"id":"resp_…","status":"in_progress",…}}

event: response.output_text.delta
data: {"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_…","output_index":0,"content_index":0,"delta":"Hello"}

event: response.completed
data: {"type":"response.completed","sequence_number":9,"response":{"id":"resp_…","status":"completed",…}}

data: [DONE]

"""

CHAT_STREAM = """\
data: {"id":"chatcmpl-…","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],…}

data: {"id":"chatcmpl-…","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}],…}

data: {"id":"chatcmpl-…","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],…}

data: [DONE]

"""

MESSAGE_STREAM = """\
event: message_start
data: {"type":"message_start","message":{"id":"msg_…","role":"assistant","content":[],"usage":{"input_tokens":9,…},…}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":1,…}}

event: message_stop
data: {"type":"message_stop"}

"""

"""What a request refers to, looked up and checked; and the prompt that all of it makes."""

from collections.abc import Sequence

import msgspec

from backtalk.conversations import store as conversations
from backtalk.conversations.service import with_id
from backtalk.core.errors import InvalidRequest, NotFound
from backtalk.core.text import estimate_tokens
from backtalk.domain.items import OUTPUTS, Item
from backtalk.domain.model import Model, Prompt
from backtalk.domain.turn import Attachments, ContextSource, TurnRequest, VectorStores
from backtalk.storage import Storage
from backtalk.turn import store
from backtalk.turn.attachments import Loader
from backtalk.turn.budget import Fitted, fit, tokens_of
from backtalk.turn.compaction import expand, split
from backtalk.turn.context import gather, with_pieces
from backtalk.turn.run import Limits
from backtalk.turn.store import History, StillRunningError
from backtalk.turn.tool_loop import FILE_SEARCH, model_tool_choice, model_tools


class Opener:
    """Turns requests into prompts."""

    def __init__(
        self,
        storage: Storage,
        stores: VectorStores,
        attachments: Attachments,
        limits: Limits,
        sources: Sequence[ContextSource] = (),
    ) -> None:
        self._storage = storage
        self._stores = stores
        self._attachments = attachments
        self._limits = limits
        self.sources = list(sources)

    async def settle(self, request: TurnRequest) -> History:
        """Gives the input its ids and what it refers to; returns what comes before it. Raises for what is not there."""
        history = await self._history(request)
        request.input = [with_id(item) for item in await self._dereference(request)]
        _check_calls([*history.items, *request.input])
        for i, tool in enumerate(request.tools):
            if tool["type"] == FILE_SEARCH:
                await self._check_stores(request, tool["vector_store_ids"], f"tools[{i}].vector_store_ids")
        return history

    def too_long(self, request: TurnRequest, items: Sequence[Item]) -> bool:
        """Whether a talk has to be made short before it goes to the model."""
        if request.compact:
            return True
        if request.compact_above is None or split(items) == 0:
            return False
        used = estimate_tokens(request.instructions or "") + sum(map(tokens_of, items))
        return used > request.compact_above

    async def fit(self, request: TurnRequest, model: Model, items: list[Item]) -> Fitted:
        """The items with their files loaded, and what context sources offer, within the model's context.

        Raises InvalidRequest for a talk that does not fit, and for files of the input that cannot be had.
        """
        loader = Loader(self._attachments, request.caller, files=getattr(model, "files", False))
        places = {item["id"]: request.place(i) for i, item in enumerate(request.input)}
        return fit(
            await loader.load(items, places),
            await gather(self.sources, request, self._limits.source_timeout),
            instructions=request.instructions,
            limit=self._limits.context_tokens,
            truncate=request.truncation == "auto",
        )

    def live(self, request: TurnRequest, history: History) -> list[Item]:
        """The talk up to now as a model sees it."""
        return expand([*history.items, *request.input])

    @staticmethod
    def prompt(request: TurnRequest, model_name: str, fitted: Fitted) -> Prompt:
        """All that the model is told."""
        return Prompt(
            model=model_name,
            items=with_pieces(fitted.items, fitted.pieces),
            instructions=request.instructions,
            tools=model_tools(request),
            tool_choice=model_tool_choice(request.tool_choice),
            parallel_tool_calls=request.parallel_tool_calls,
            temperature=request.temperature,
            top_p=request.top_p,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            max_output_tokens=request.max_output_tokens,
            stop=request.stop,
            seed=request.seed,
            text_format=request.text_format,
            verbosity=request.verbosity,
            logprobs=request.logprobs,
            reasoning_effort=request.reasoning_effort,
            reasoning_summary=request.reasoning_summary,
            reasoning_tokens=request.reasoning_tokens,
            service_tier=request.service_tier,
            cache_key=request.cache_key,
            cache_retention=request.cache_retention,
            user=request.user,
            request_id=request.request_id,
        )

    async def count(self, request: TurnRequest, model: Model) -> int:
        """The tokens that a turn's prompt would have, as we estimate them. Raises as opening it would."""
        fitted = await self.fit(request, model, self.live(request, await self.settle(request)))
        tools = "".join(msgspec.json.encode(tool).decode() for tool in request.tools)
        return fitted.tokens + estimate_tokens(tools)

    # ── what the request names ───────────────────────────────────────────────────────────────────────────────────────

    async def _history(self, request: TurnRequest) -> History:
        if request.previous_response_id is not None:
            return await self._history_of_response(request.caller.project, request.previous_response_id)
        if request.conversation_id:
            return await self._history_of_conversation(request, request.conversation_id)
        return History()

    async def _history_of_response(self, project: str, response_id: str) -> History:
        try:
            found = await self._storage.read(store.history_of_response, project, response_id)
        except StillRunningError:
            raise InvalidRequest(
                "The previous response is still in progress: wait until it has ended, or cancel it.",
                param="previous_response_id",
                code="invalid_value",
            ) from None
        if found is None:
            raise InvalidRequest(
                f"Previous response with id '{response_id[:128]}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        return found

    async def _history_of_conversation(self, request: TurnRequest, conversation_id: str) -> History:
        project, leaf = request.caller.project, request.branch_from
        found = await self._storage.read(store.history_of_conversation, project, conversation_id, leaf)
        if found is None:
            raise NotFound(f"Conversation with id '{conversation_id[:128]}' not found.", param="conversation")
        if leaf is not None and found.leaf_id != leaf:
            raise InvalidRequest(
                f"Item with id '{leaf[:128]}' not found in the conversation.",
                param="conversation.parent_id",
                code="invalid_value",
            )
        return found

    async def _dereference(self, request: TurnRequest) -> list[Item]:
        """The input with references to stored items replaced by what they point at."""
        ids = [item["id"] for item in request.input if item["type"] == "item_reference"]
        if not ids:
            return request.input
        known = await self._storage.read(conversations.find_items, request.caller.project, ids)
        for i, item in enumerate(request.input):
            if item["type"] == "item_reference" and item["id"] not in known:
                raise InvalidRequest(f"Item with id '{item['id'][:128]}' not found.", param=f"{request.place(i)}.id")
        return [known[item["id"]] if item["type"] == "item_reference" else item for item in request.input]

    async def _check_stores(self, request: TurnRequest, store_ids: Sequence[str], param: str) -> None:
        """A store that is not there is told before anything else happens."""
        try:
            await self._stores.check_stores(request.caller, store_ids)
        except NotFound as error:
            raise NotFound(error.message, param=param) from None
        except InvalidRequest as error:
            raise InvalidRequest(error.message, param=param, code=error.code) from None


def _check_calls(items: Sequence[Item]) -> None:
    """Every output of a client's tool must have its call before it."""
    calls: set[str] = set()
    for item in items:
        if item["type"] in ("function_call", "custom_tool_call"):
            calls.add(item["call_id"])
        elif item["type"] in OUTPUTS and item["call_id"] not in calls:
            raise InvalidRequest(
                f"No tool call found for function call output with call_id {item['call_id'][:128]}.",
                param="input",
                code="invalid_value",
            )

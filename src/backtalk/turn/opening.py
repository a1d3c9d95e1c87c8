"""What a request refers to, looked up and checked; and the prompt that all of it makes."""

from collections.abc import Sequence
from typing import Any

import msgspec

from backtalk.conversations import store as conversations
from backtalk.conversations.service import with_id
from backtalk.core.errors import InvalidRequest, NotFound
from backtalk.core.text import estimate_tokens
from backtalk.domain.items import OUTPUTS, Item
from backtalk.domain.model import Model, Prompt
from backtalk.domain.turn import Attachments, ContextSource, Piece, TurnRequest, VectorStores
from backtalk.storage import Storage
from backtalk.turn import store
from backtalk.turn.attachments import Loader
from backtalk.turn.budget import Fitted, fit, tokens_of
from backtalk.turn.compaction import divide, expand, is_worth_it
from backtalk.turn.context import gather, receipt, with_pieces
from backtalk.turn.run import Limits
from backtalk.turn.store import History, StillRunningError
from backtalk.turn.tool_loop import FILE_SEARCH, allowed_tools, model_tool_choice, model_tools


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
                await self._check_search(request, tool, f"tools[{i}]")
        return history

    def too_long(self, request: TurnRequest, talk: Sequence[Item]) -> bool:
        """Whether a talk has to be made short before it goes to the model, and can be."""
        if request.compact:
            return True
        if request.compact_above is None:
            return False
        used = estimate_tokens(request.instructions or "") + sum(map(tokens_of, talk))
        return used > request.compact_above and is_worth_it(divide(talk, request.compact_above)[0])

    async def fit(self, request: TurnRequest, model: Model, talk: list[Item]) -> Fitted:
        """The talk with its files loaded, and what context sources offer, within the model's context.

        Raises InvalidRequest for a talk that does not fit, and for files of the input that cannot be had.
        """
        loaded = await self.load(request, model, talk)
        pieces = await gather(self.sources, request, self._limits.source_timeout)
        return self._fit(request, loaded, pieces)

    async def fit_later(self, request: TurnRequest, model: Model) -> Fitted:
        """Nothing yet, for a talk that is made short first. What is wrong with the input's files is raised now."""
        await self.load(request, model, request.input)
        return self._fit(request, [], [])

    async def load(self, request: TurnRequest, model: Model, items: list[Item]) -> list[Item]:
        """The items with their files loaded."""
        loader = Loader(self._attachments, request.caller, files=getattr(model, "files", False), wire=request.wire)
        places = {item["id"]: place for i, item in enumerate(request.input) if (place := request.place(i))}
        return await loader.load(items, places)

    def _fit(self, request: TurnRequest, items: list[Item], pieces: Sequence[Piece]) -> Fitted:
        return fit(
            items,
            pieces,
            instructions=request.instructions,
            limit=self._limits.context_tokens,
            truncate=request.truncation == "auto",
        )

    def receipt(self, response_id: str, fitted: Fitted, request: TurnRequest) -> dict[str, Any]:
        """What went into the prompt, as it is kept beside the response."""
        found = receipt(response_id, fitted, request.input, self._limits.context_tokens)
        return found | ({"branch_from": request.branch_from} if request.branched else {})

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
            allowed_tools=sorted(allowed) if (allowed := allowed_tools(request)) else None,
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
        talk = self.live(request, await self.settle(request))
        if self.too_long(request, talk):
            tokens = sum(map(tokens_of, talk)) + estimate_tokens(request.instructions or "")
        else:
            tokens = (await self.fit(request, model, talk)).tokens
        tools = "".join(msgspec.json.encode(tool).decode() for tool in request.tools)
        return tokens + estimate_tokens(tools)

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
        if found is not None and request.branched and leaf is None:
            return History()
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
                raise InvalidRequest(
                    f"Item with id '{item['id'][:128]}' not found.", param=f"{request.place(i) or 'input'}.id"
                )
        return [known[item["id"]] if item["type"] == "item_reference" else item for item in request.input]

    async def _check_search(self, request: TurnRequest, tool: dict[str, Any], param: str) -> None:
        """A store that is not there, or a filter that is none, is told before anything else happens."""
        stores, filters, ranking = tool["vector_store_ids"], tool.get("filters"), tool.get("ranking_options")
        try:
            await self._stores.check_search(request.caller, stores, filters=filters, ranking=ranking)
        except NotFound as error:
            raise NotFound(error.message, param=f"{param}.vector_store_ids") from None
        except InvalidRequest as error:
            where = "vector_store_ids" if error.param in (None, "vector_store_id") else error.param
            raise InvalidRequest(error.message, param=f"{param}.{where}", code=error.code) from None


def _check_calls(items: Sequence[Item]) -> None:
    """Every output of a client's tool must have its call before it."""
    calls: set[str] = set()
    for item in items:
        if item["type"].endswith("_call") and isinstance(item.get("call_id"), str):
            calls.add(item["call_id"])
        elif item["type"] in OUTPUTS and item["call_id"] not in calls:
            raise InvalidRequest(
                f"No tool call found for function call output with call_id {item['call_id'][:128]}.",
                param="input",
                code="invalid_value",
            )

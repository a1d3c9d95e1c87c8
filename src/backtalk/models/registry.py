"""Which model answers: ids, model servers, the built-in reader, and models that users bring."""

import asyncio
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from backtalk.core.errors import ModelNotFound, UpstreamError
from backtalk.domain.model import Model, ModelCard
from backtalk.http.egress import Egress
from backtalk.models.base import Upstream
from backtalk.models.chain import Chain, Link
from backtalk.models.health import Report
from backtalk.models.listing import Listing, is_chat_model

log = logging.getLogger("backtalk.models")

ADAPTERS = {
    "openai": "backtalk.models.openai_chat:OpenAIChat",
    "openai-responses": "backtalk.models.openai_responses:OpenAIResponses",
    "anthropic": "backtalk.models.anthropic:Anthropic",
    "pydantic-ai": "backtalk.models.pydantic_ai:PydanticAI",
}
"""How model servers are spoken to: import strings, loaded on first use, called with the upstream and the egress."""
BUILT_IN = "backtalk/extractive"
ENTRY_POINTS = "backtalk.models"
_BUILT_IN_CLASS = "backtalk.models.extractive:ExtractiveReader"
_OURS = "backtalk/"


class Models:
    """Finds the model behind an id.

    `models` are instances, classes or import strings (`module:attribute`) of what has a `stream(prompt)`; entry points
    of the group `backtalk.models` join them. A model's id is its attribute `id`, else `name`, else its class's name in
    lower case. `default` are the ids that are used, one after the other, when a request names none; without any it is the
    first of `models`. `aliases` are names for other ids; one for several is a chain: the next is asked when the one before
    it cannot answer.
    """

    def __init__(
        self,
        egress: Egress,
        upstreams: Sequence[Upstream] = (),
        models: Sequence[Any] = (),
        default: Sequence[str] = (),
        aliases: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._egress = egress
        self._default = list(default)
        self._aliases = dict(aliases or {})
        self._upstreams = {upstream.name: upstream for upstream in upstreams}
        self._adapters: dict[str, Model] = {}
        self._listings: dict[str, Listing] = {}
        self._own: dict[str, Model] = {}
        for model in _installed():
            self.add_model(model)
        self._given = [self.add_model(model) for model in models]

    def add_upstream(self, upstream: Upstream) -> None:
        """Adds a model server behind those that are known. A name that is taken stays whose it is."""
        self._upstreams.setdefault(upstream.name, upstream)

    def add_model(self, model: Any) -> str:
        """Adds a model and returns its id. The later of two with one id wins."""
        made = load(model)
        name = _id_of(made)
        self._own[name] = made
        return name

    @property
    def upstreams(self) -> list[Upstream]:
        return list(self._upstreams.values())

    async def resolve(self, model_id: str | None = None) -> tuple[Model, str, str]:
        """The model, the name that it goes by where it runs, and the id that a client may call it by again.

        An id is an own model's, or `upstream/name`, or a name that an upstream lists, or anything that the first
        upstream may know. Raises ModelNotFound.
        """
        if model_id in self._aliases:
            return await self._resolve_chain(model_id, self._aliases[model_id])
        if not model_id and len(self._default) > 1:
            return await self._resolve_chain(self._default[0], self._default)
        wanted = model_id or (self._default[0] if self._default else await self._first())
        if wanted in self._aliases:
            return await self.resolve(wanted)
        return await self._resolve_one(wanted)

    async def _resolve_chain(self, name: str, ids: Sequence[str]) -> tuple[Model, str, str]:
        """The models behind an alias as one; an alias among them stands for its own first."""
        links = [Link(one, *(await self._resolve_one(self._aliases.get(one, [one])[0]))[:2]) for one in ids]
        return Chain(links), name, name

    async def _resolve_one(self, wanted: str) -> tuple[Model, str, str]:
        own = self._own_model(wanted)
        if own is not None:
            return own, wanted, wanted
        found = await self.find_upstream(wanted)
        if found is None:
            raise ModelNotFound(wanted, ", ".join(dict.fromkeys([*self._aliases, *self._own, BUILT_IN])))
        upstream, name = found
        return await self._adapter(upstream), name, wanted

    async def find_upstream(self, model_id: str) -> tuple[Upstream, str] | None:
        """The upstream that an id belongs to and the model's name there; None when there is none at all."""
        model_id = self._aliases.get(model_id, [model_id])[0]
        prefix, _, rest = model_id.partition("/")
        if rest and prefix in self._upstreams:
            return self._upstreams[prefix], rest
        if not self._upstreams or model_id.startswith(_OURS):
            return None
        return await self._listing_upstream(model_id) or self.upstreams[0], model_id

    async def list(self) -> list[ModelCard]:
        """Every model that can be called. An upstream that does not answer is left out."""
        listed = await asyncio.gather(*map(self._names, self.upstreams))
        theirs = [
            ModelCard(f"{upstream.name}/{name}", owned_by=upstream.name, created=created, state=self._state(upstream))
            for upstream, names in zip(self.upstreams, listed, strict=True)
            for name, created in names.items()
        ]
        named = [ModelCard(name, owned_by="backtalk", stands_for=tuple(ids)) for name, ids in self._aliases.items()]
        mine = [ModelCard(name, owned_by="user") for name in self._own if name != BUILT_IN]
        return [*named, *mine, *theirs, ModelCard(BUILT_IN, owned_by="backtalk")]

    def health(self, upstream: Upstream) -> Report | None:
        """How a server fares; None for one that was not called yet."""
        server = getattr(self._adapters.get(upstream.name), "server", None)
        return server.health.report() if server else None

    def _state(self, upstream: Upstream) -> str:
        report = self.health(upstream)
        return report.state if report else "unknown"

    def _own_model(self, model_id: str) -> Model | None:
        if model_id == BUILT_IN and model_id not in self._own:
            self._own[model_id] = load(_BUILT_IN_CLASS)
        return self._own.get(model_id)

    async def _adapter(self, upstream: Upstream) -> Model:
        if upstream.name not in self._adapters:
            made = await asyncio.to_thread(import_string, ADAPTERS[upstream.adapter])  # some take a second to load
            self._adapters.setdefault(upstream.name, made(upstream, self._egress))
        return self._adapters[upstream.name]

    async def _first(self) -> str:
        """The first model that was handed over, else the first upstream's first for talk, else the built-in one."""
        if self._given:
            return self._given[0]
        for upstream in self._upstreams.values():
            for name in await self._names(upstream):
                if is_chat_model(name):
                    return f"{upstream.name}/{name}"
        if self._upstreams:
            names = ", ".join(self._upstreams)
            raise UpstreamError(
                f"No model server ({names}) lists its models now. Name a model in the request or in BACKTALK_MODEL.",
                reason="upstream_unavailable",
                status=503,
            )
        return BUILT_IN

    async def _listing_upstream(self, name: str) -> Upstream | None:
        if len(self._upstreams) == 1:  # nothing to choose: no listing is worth waiting for
            return None
        listed = await asyncio.gather(*map(self._names, self.upstreams))
        for upstream, names in zip(self.upstreams, listed, strict=True):
            if name in names:
                return upstream
        return None

    async def _names(self, upstream: Upstream) -> dict[str, int]:
        """An upstream's models with their times of creation, as it told them not long ago."""
        if upstream.models or not upstream.url:
            return dict.fromkeys(upstream.models, 0)
        if upstream.name not in self._listings:
            self._listings[upstream.name] = Listing(upstream, self._egress)
        return await self._listings[upstream.name].names()


def load(model: Any) -> Model:
    """A model from an instance, a class (called without arguments) or an import string of either."""
    found = import_string(model) if isinstance(model, str) else model
    made: Any = found() if inspect.isclass(found) else found
    if not callable(getattr(made, "stream", None)):
        raise TypeError(f"{model!r} is no model: it has no method stream(prompt)")
    return made  # type: ignore[no-any-return]  # checked by hand: it comes from outside


def import_string(target: str) -> Any:
    """What `module:attribute` names. Raises ValueError, ImportError or AttributeError that tell what is wrong with it."""
    module, colon, path = target.partition(":")
    if not (module and colon and path):
        raise ValueError(f"{target!r} must have the form module:attribute")
    found: Any = import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found


def _id_of(model: Model) -> str:
    for name in ("id", "name"):
        if isinstance(value := getattr(model, name, None), str) and value:
            return value
    return type(model).__name__.lower()


def _installed() -> Iterator[Any]:
    """Models of installed distributions. One that cannot be loaded is logged and left out."""
    for point in entry_points(group=ENTRY_POINTS):
        try:
            yield load(point.load())
        except Exception:
            log.exception("the entry point %s = %s cannot be loaded", point.name, point.value)

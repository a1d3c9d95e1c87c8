"""The models of a resource's requests and answers, made from the user's model."""

import json
import re
from datetime import date
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Optional, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, RootModel, SkipValidation, create_model
from pydantic import Field as WireField
from pydantic import ValidationError as ValidationError

from backtalk.http.paging import Cursor
from backtalk.resources.service import Object, merge
from backtalk.resources.store import Field, Type

OURS = frozenset({"id", "created_at", "updated_at"})


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("contains a NUL character")
    return text


_Text = Annotated[str, AfterValidator(_without_nul)]
_TYPES: dict[type, Type] = {str: "text", int: "int", float: "float", bool: "bool"}
_PLAIN: dict[Any, tuple[Any, Type]] = {
    str: (_Text, "text"),
    date: (date, "text"),
    bool: (bool, "bool"),
    int: (Annotated[int, WireField(ge=-(2**63), lt=2**63)], "int"),
    float: (Annotated[float, WireField(allow_inf_nan=False)], "float"),
}


class Query(BaseModel):
    """Parameters of a list. Unknown ones are refused: a misspelt filter would let everything through."""

    model_config = ConfigDict(extra="forbid")

    limit: int = WireField(20, ge=1, le=100, description="Objects on a page.")
    after: _Text | None = WireField(None, description="Exclusive cursor: the id of the last object seen.")
    order: Literal["asc", "desc"] = WireField("desc", description="Direction of the order.")

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.limit, self.order, self.after)


class _Page(BaseModel):
    object: Literal["list"]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Detail(BaseModel):
    """An error."""

    detail: str


class Shape:
    """A user's model and what is made of it: `stored` with our fields, `page` of those, `patch`, `query`.

    Raises ValueError for a model that cannot be a resource.
    """

    def __init__(self, model: type[BaseModel], *, searchable: bool) -> None:
        _check(model)
        name = model.__name__
        self.model = model
        scalars = _scalars(model)
        self.fields = {field.name: field for field, _ in scalars}
        self.stored = create_model(
            f"Stored{name}",
            __base__=model,
            id=(str, WireField(description="Its id.")),
            created_at=(int, WireField(description="Unix seconds.")),
            updated_at=(int, WireField(description="Unix seconds.")),
        )
        self.page = create_model(
            f"{name}Page",
            __base__=_Page,
            data=(list[self.stored], ...),  # type: ignore[name-defined]  # made at run time
        )
        self.patch = _patch(model)
        self.query = _query(name, scalars, searchable=searchable)

    def dump(self, instance: BaseModel) -> Object:
        """An instance as the JSON object that is stored."""
        return instance.model_dump(mode="json", by_alias=True, round_trip=True)

    def patched(self, data: Object, patch: BaseModel) -> Object:
        """A stored object after a merge patch. Raises ValidationError when the whole does not fit the model."""
        fields = type(patch).model_fields
        given = {fields[name].alias or name: getattr(patch, name) for name in patch.model_fields_set & fields.keys()}
        return self.dump(self.model.model_validate(merge(data, given | (patch.model_extra or {}))))

    def filters(self, query: BaseModel) -> list[tuple[Field, Any]]:
        """The filters of a list's query, with JSON values."""
        given = query.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=set(Query.model_fields))
        return [(self.fields[name], value) for name, value in given.items() if name in self.fields]


def _check(model: type[BaseModel]) -> None:
    if not (isinstance(model, type) and issubclass(model, BaseModel)) or issubclass(model, RootModel):
        raise ValueError("A resource is made of a Pydantic model with fields.")
    for name, field in model.model_fields.items():
        written, read = field.serialization_alias or name, field.validation_alias or name
        if {name, written} & OURS:
            raise ValueError(f"The field '{name}' of {model.__name__} is one that Backtalk adds: call it otherwise.")
        if written != read:
            raise ValueError(f"The field '{name}' of {model.__name__} must be read and written by the same name.")


def _scalars(model: type[BaseModel]) -> list[tuple[Field, Any]]:
    """The fields that can be filtered and ordered by, and the types of their query parameters."""
    found = []
    for attribute, info in model.model_fields.items():
        name, scalar = info.alias or attribute, _scalar(info.annotation)
        if scalar and re.fullmatch(r"\w[\w-]*", name) and name not in {*Query.model_fields, "order_by", "q"}:
            found.append((Field(name, scalar[1]), scalar[0]))
    return found


def _scalar(annotation: Any) -> tuple[Any, Type] | None:
    """The type of a query parameter for values of a type, and what they are compared as; None for no scalar."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _scalar(inner[0])
    if origin in (Union, UnionType):
        rest = [one for one in inner if one is not NoneType]
        return _scalar(rest[0]) if len(rest) == 1 else None
    if origin is Literal:
        return _choice(annotation, [value for value in inner if value is not None])
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _choice(annotation, [member.value for member in annotation])
    return _PLAIN.get(annotation)


def _choice(annotation: Any, values: list[Any]) -> tuple[Any, Type] | None:
    types = {_TYPES.get(type(value)) for value in values}
    only = types.pop() if len(types) == 1 else None
    if only is None:
        return None
    known = {value if only == "text" else json.dumps(value): value for value in values}
    return Annotated[annotation, BeforeValidator(lambda text: known.get(text, text))], only


def _query(name: str, scalars: list[tuple[Field, Any]], *, searchable: bool) -> type[Query]:
    more: dict[str, Any] = {
        f"filter_{at}": (kind | None, WireField(None, alias=field.name, description=f"Only with this `{field.name}`."))
        for at, (field, kind) in enumerate(scalars)
    }
    names = Literal[("created_at", *(field.name for field, _ in scalars))]  # type: ignore[valid-type]  # made at run time
    words = "What to order by; a text counts with its first characters. Objects without it come last."
    more["order_by"] = (names, WireField("created_at", description=words))
    if searchable:
        words = "Words to search for: answers the objects that fit best, in order of score, whatever `order` says."
        more["q"] = (_Text | None, WireField(None, min_length=1, max_length=4096, description=words))
    return create_model(f"{name}Query", __base__=Query, **more)


def _patch(model: type[BaseModel]) -> type[BaseModel]:
    """All fields optional, for the schema; what they hold is checked after the merge."""
    fields: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        shown = WireField(None, alias=info.alias, description=info.description, examples=info.examples)
        fields[name] = (Annotated[Optional[info.annotation], SkipValidation], shown)  # noqa: UP045  # made at run time
    by_name = bool(model.model_config.get("populate_by_name") or model.model_config.get("validate_by_name"))
    config = ConfigDict(extra="allow", populate_by_name=by_name, protected_namespaces=())
    return create_model(f"{model.__name__}Patch", __config__=config, **fields)

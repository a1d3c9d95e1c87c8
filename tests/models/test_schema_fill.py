from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter

from backtalk.models.schema import fill


class Step(BaseModel):
    explanation: str
    output: str | None
    weight: float = Field(gt=0, lt=1)


class Leaf(BaseModel):
    kind: Literal["leaf"]
    value: int = Field(ge=5, le=7, multiple_of=3)


class Node(BaseModel):
    kind: Literal["node"]
    children: list["Node | Leaf"] = Field(min_length=1)
    parent: "Node | None"


class Everything(BaseModel):
    steps: list[Step] = Field(min_length=2, max_length=3)
    tree: Node | Leaf
    name: str = Field(min_length=3, max_length=5)
    colour: Literal["red", "green"]
    flag: bool
    pair: tuple[int, str]
    nothing: None
    anything: Any
    table: dict[str, int]


@pytest.mark.parametrize("model", [Everything, Node, Step])
def test_what_pydantic_asks_for_validates(model: type[BaseModel]) -> None:
    adapter = TypeAdapter(model)
    adapter.validate_python(fill(adapter.json_schema()), strict=False)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"const": 3}, 3),
        ({"enum": ["a", "b"]}, "a"),
        ({"type": "string", "default": "x"}, "x"),
        ({"type": ["null", "integer"], "exclusiveMinimum": 4}, 5),
        ({"type": "number", "maximum": -2}, -2),
        ({"type": "integer", "minimum": 10, "multipleOf": 7}, 14),
        ({"type": "string", "format": "date"}, "2026-01-01"),
        ({"type": "string", "minLength": 8}, "text...."),
        ({"allOf": [{"type": "object", "properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]}, {"a": 1, "b": 2}),
        ({"$ref": "#/$defs/x~1y", "$defs": {"x/y": {"const": 1}}}, 1),
        ({"$ref": "#/$defs/gone"}, "text"),
        ({"$ref": "https://elsewhere/schema"}, "text"),
        ({"anyOf": [{"type": "null"}, {"const": 1}]}, 1),
        ({"type": "array", "minItems": 2, "items": {"const": 0}}, [0, 0]),
        ({"type": "array", "prefixItems": [{"const": 1}], "minItems": 1}, [1]),
        ({"properties": {"a": {"const": 1}}}, {"a": 1}),
        ({"type": "object", "required": ["a"]}, {"a": "a"}),
        (None, {}),
    ],
)  # fmt: skip
def test_keywords(schema: Any, value: Any) -> None:
    assert fill(schema) == value


def test_a_schema_that_never_ends_is_cut_off() -> None:
    loop = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    assert isinstance(fill(loop), dict)
    assert isinstance(fill({"$ref": "#"}), str)


def test_guesses_go_where_they_fit() -> None:
    schema = {"properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["c", "f"]}}}
    known: dict[str, Any] = {"city": "Rome", "days": 3, "unit": "kelvin"}
    assert fill(schema, lambda name, _: known[name]) == {"city": "Rome", "days": 3, "unit": "c"}

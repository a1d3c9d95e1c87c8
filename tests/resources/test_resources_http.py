"""Typed resources through the front door, on each database."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator
from sqlalchemy import create_engine, func, select

import backtalk
from backtalk import Backtalk, Settings
from backtalk.core.ids import new_id
from backtalk.jobs.store import enqueue, jobs
from backtalk.resources import store
from backtalk.testing import ScriptedModel, serve
from support import until


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Size(IntEnum):
    SMALL = 1
    LARGE = 2


class Place(BaseModel):
    city: str = ""
    street: str = ""


class Note(BaseModel):
    title: str = Field(min_length=1, examples=["A title"])
    body: str | None = None
    stars: int = 0
    weight: float | None = None
    done: bool = False
    color: Color = Color.RED
    size: Size = Size.SMALL
    mood: Literal["good", "bad"] = "good"
    due: date | None = None
    tags: list[str] = []
    place: Place = Place()
    more: dict[str, Any] = {}

    @model_validator(mode="after")
    def _whole(self) -> "Note":
        if self.done and self.stars > 5:
            raise ValueError("done notes have at most 5 stars")
        return self


class Renamed(BaseModel):
    model_config = ConfigDict(populate_by_name=True, extra="forbid")

    full_name: str = Field(alias="fullName")
    limit: int = 1  # no filter: the name is taken


@pytest.fixture
def app(database: str, tmp_path: Path) -> Backtalk:
    made = Backtalk(Settings(home=tmp_path, database=database, discover=False), models=[ScriptedModel()])
    made.resource("notes", Note)
    made.resource("people", Renamed, prefix="/api/people", tags=["People"])
    made.resource("drafts", Note, searchable=True)
    return made


@pytest.fixture
def url(app: Backtalk) -> Iterator[str]:
    with serve(app) as address:
        yield address


@pytest.fixture
def http(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=30) as made:
        yield made


def add(http: httpx2.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post("/notes", json=fields)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def titles(http: httpx2.Client, **params: Any) -> list[str]:
    answer = http.get("/notes", params={"order": "asc", **params})
    assert answer.status_code == 200, answer.text
    return [one["title"] for one in answer.json()["data"]]


def test_the_life_of_an_object(http: httpx2.Client) -> None:
    answer = http.post("/notes", json={"title": "One", "due": "2026-11-01", "id": "mine", "place": {"city": "Köln"}})
    made = answer.json()
    assert made["id"].startswith("notes_")
    assert made["created_at"] == made["updated_at"] > 1_700_000_000
    assert (made["due"], made["color"], made["size"], made["weight"]) == ("2026-11-01", "red", 1, None)
    path = answer.headers["location"]
    assert path == f"/notes/{made['id']}"
    assert http.get(path).json() == made

    changed = http.patch(path, json={"place": {"street": "Ring"}, "due": None, "tags": ["a"]}).json()
    assert changed["place"] == {"city": "Köln", "street": "Ring"}
    assert (changed["due"], changed["tags"], changed["title"]) == (None, ["a"], "One")

    replaced = http.put(path, json={"title": "Two"}).json()
    assert (replaced["title"], replaced["tags"], replaced["place"]["city"]) == ("Two", [], "")
    assert replaced["created_at"] == made["created_at"]

    assert http.delete(path).status_code == 204
    for method in ("GET", "DELETE"):
        assert http.request(method, path).status_code == 404
    assert http.put(path, json={"title": "x"}).status_code == 404
    assert http.patch(path, json={"title": "x"}).json() == {"detail": f"No object with id '{made['id']}' in 'notes'."}
    assert http.get("/notes").json() == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False
    }  # fmt: skip


def test_a_patch_is_checked_as_a_whole(http: httpx2.Client) -> None:
    path = f"/notes/{add(http, title='One', stars=9)['id']}"
    for wrong in ({"done": True}, {"title": None}, {"title": ""}, {"stars": "many"}, {"place": {"city": 1}}):
        answer = http.patch(path, json=wrong)
        assert answer.status_code == 422, answer.text
        assert answer.json()["detail"][0]["loc"][0] == "body"
    assert http.get(path).json()["stars"] == 9
    assert http.patch(path, json={"done": True, "stars": 5}).json()["done"] is True


def test_filters(http: httpx2.Client) -> None:
    add(http, title="a", stars=2**63 - 1, weight=0.30000000000000004, color="blue", size=2, due="2026-01-02")
    add(http, title="A", stars=2**63 - 2, weight=0.3, mood="bad", body="true")
    add(http, title="a ", stars=-3, weight=5e-324, body="null")
    add(http, title='ä"\\\n🙂', stars=1, weight=1e300, body="x" * 3000, done=True)
    everything = ["a", "A", "a ", 'ä"\\\n🙂']
    assert titles(http) == everything
    for params, wanted in (
        ({"title": "a"}, [0]),
        ({"title": "a "}, [2]),
        ({"title": everything[3]}, [3]),
        ({"title": "b"}, []),
        ({"stars": 2**63 - 1}, [0]),
        ({"stars": 2**63 - 2}, [1]),
        ({"stars": -3}, [2]),
        ({"weight": 0.30000000000000004}, [0]),
        ({"weight": "0.3"}, [1]),
        ({"weight": "5e-324"}, [2]),
        ({"weight": "1e300"}, [3]),
        ({"done": "true"}, [3]),
        ({"done": "false"}, [0, 1, 2]),
        ({"color": "blue"}, [0]),
        ({"size": 2}, [0]),
        ({"size": 1, "mood": "good"}, [2, 3]),
        ({"mood": "bad"}, [1]),
        ({"due": "2026-01-02"}, [0]),
        ({"body": "true"}, [1]),
        ({"body": "null"}, [2]),
        ({"body": "x" * 3000}, [3]),
        ({"title": "a' OR '1'='1"}, []),
    ):
        assert titles(http, **params) == [everything[at] for at in wanted], params


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_follow_one_another_in_every_order(http: httpx2.Client, order: str) -> None:
    bodies = ["b", "a", None, "B", "ä", "a", "🙂", "", "￿", None, "x" * 300 + "2", "x" * 300 + "1"]
    for at, body in enumerate(bodies):
        weight = [None, 0.1, -1.5, 1e300, 2**53 + 2.0][at % 5]
        add(
            http,
            title=f"{at:02}",
            body=body,
            weight=weight,
            stars=at % 4 - 2,
            done=at % 3 == 0,
            color="blue" if at % 2 else "red",
        )
    every = http.get("/notes", params={"limit": 100, "order": "asc"}).json()["data"]

    def ranked(field: str) -> list[str]:
        def key(value: Any) -> Any:
            return value[:250].encode() if isinstance(value, str) else value

        down = order == "desc"
        rows = every[::-1] if down else every
        there = [row for row in rows if row[field] is not None]
        there.sort(key=lambda row: key(row[field]), reverse=down)  # stable, also in reverse
        return [row["title"] for row in there + [row for row in rows if row[field] is None]]

    for field in ("created_at", "title", "body", "weight", "stars", "done", "color"):
        params: dict[str, Any] = {"order": order, "order_by": field, "limit": 5}
        seen: list[str] = []
        while True:
            page = http.get("/notes", params=params).json()
            seen += [one["title"] for one in page["data"]]
            if not page["has_more"]:
                break
            params["after"] = page["last_id"]
        expected = [row["title"] for row in (every[::-1] if order == "desc" else every)]
        assert seen == (expected if field == "created_at" else ranked(field)), field


def insert(app: Backtalk, data: dict[str, Any]) -> None:
    """A note as an older version of its model may have written it."""
    engine = create_engine(app.storage.engine.url)
    with engine.begin() as connection:
        store.add(connection, "default", store.Kind("notes"), new_id("notes"), data)
    engine.dispose()


def test_what_a_model_no_longer_declares_does_no_harm(app: Backtalk, http: httpx2.Client) -> None:
    """Rows that were written by an older model: the field is there as something else, or missing."""
    add(http, title="new", stars=1, weight=1.0, done=True)
    for data in (
        {"title": 7, "stars": "many", "weight": "heavy", "done": "yes", "body": {"a": 1}, "due": 3},
        {"title": None},
        {},
    ):
        insert(app, data)
    for field in ("title", "stars", "weight", "done", "body", "due"):
        for order in ("asc", "desc"):
            answer = http.get("/notes", params={"order_by": field, "order": order, "limit": 2})
            assert answer.status_code == 200, answer.text
            rest = http.get(
                "/notes",
                params={"order_by": field, "order": order, "limit": 2, "after": answer.json()["last_id"]},
            )
            assert len(answer.json()["data"] + rest.json()["data"]) == 4
    assert [one["title"] for one in http.get("/notes", params={"stars": 1, "done": True}).json()["data"]] == ["new"]


def raw(
    http: httpx2.Client, body: bytes, method: str = "POST", path: str = "/notes", kind: str = "application/json"
) -> Any:
    return http.request(method, path, content=body, headers={"content-type": kind})


def deep(depth: int) -> bytes:
    return b'{"title":"x","more":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"title":"\\ud800"}', 400),
        (b'{"title":"a\\udfff b"}', 400),
        (b'{"title":"a\\u0000"}', 400),
        (b'{"title":"x","more":{"\\u0000":1}}', 400),
        (b'{"title":"x","stars":9223372036854775808}', 400),
        (b'{"title":"x","more":{"n":-9223372036854775809}}', 400),
        (b'{"title":"x","stars":' + b"9" * 20_000 + b"}", 400),
        (b'{"title":"x","stars":"' + b"9" * 20_000 + b'"}', 422),
        (b'{"title":"x","weight":NaN}', 400),
        (b'{"title":"x","weight":1e999}', 400),
        (b'{"title":"x","weight":"nan"}', 400),
        (b'{"title":"x","weight":"-inf"}', 400),
        (deep(100_000), 400),
        (deep(500), 400),
        (deep(30), 400),
        (deep(29), 201),
        (b'{"title":"x","body":"' + b"x" * 2**20 + b'"}', 413),
        (b'{"title":"x","body":"' + b'\\"' * 500_000 + b'"}', 201),
        (b"", 422),
        (b"[]", 422),
        (b"null", 422),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b'{"title":"a","title":"b"}', 201),
    ],
    ids=range(24),
)  # fmt: skip
def test_nasty_bodies(http: httpx2.Client, body: bytes, status: int) -> None:
    path = f"/notes/{add(http, title='One')['id']}"
    for method, at, fine in (("POST", "/notes", 201), ("PUT", path, 200), ("PATCH", path, 200)):
        answer = raw(http, body, method, at)
        assert answer.status_code == (fine if status == 201 else status), (method, answer.text[:300])
        if status >= 400:
            assert list(answer.json()) == ["detail"]
    listed = http.get("/notes", params={"order_by": "body", "stars": 0})
    assert listed.status_code == 200, listed.text


def test_other_nasty_requests(http: httpx2.Client) -> None:
    made = add(http, title="One")
    assert raw(http, b"\xff\xfe\x00", kind="text/plain").status_code == 415
    assert raw(http, b'{"title":"x"}', kind="text/plain").status_code == 415
    assert raw(http, b"x" * 100 * 2**20).status_code == 413
    assert (
        raw(http, b'{"title":"Two"}', "PATCH", f"/notes/{made['id']}", "application/merge-patch+json").status_code
        == 200
    )
    for wrong in (
        "x",
        "notes_",
        "notes_%00",
        f"{made['id']}%20",
        made["id"].upper(),
        "..%2f..",
        "%ff",
        "x" * 5000,
        "🙂",
    ):
        for method in ("GET", "PUT", "PATCH", "DELETE"):
            answer = raw(http, b'{"title":"x"}', method, f"/notes/{wrong}")
            assert answer.status_code == 404, (method, wrong, answer.text)
    for query in (
        "limit=0", "limit=101", "limit=x", "limit=" + "9" * 5000, "order=up", "order_by=nothing", "order_by=title'--",
        "after=%00", "unknown=1", "stars=1.5", "stars=9223372036854775808", "stars=" + "9" * 5000, "weight=nan",
        "weight=inf", "weight=1e999", "done=perhaps", "color=green", "size=3", "size=x", "mood=", "due=tomorrow",
        "title=%00", "tags=a", "place=x", "q=words", "filter_0=x",
    ):  # fmt: skip
        answer = http.get(f"/notes?{query}")
        assert answer.status_code == 422, (query, answer.text)
    for after in ("x", "notes_00000000000000", made["id"] + "%20"):
        assert http.get(f"/notes?after={after}").status_code == 400
    assert http.get("/notes?title=%ff%fe").json()["data"] == []
    assert http.put("/notes", json={}).status_code == 405
    assert http.get(f"/notes/{made['id']}").json()["title"] == "Two"


def test_names_on_the_wire_are_the_aliases(http: httpx2.Client) -> None:
    made = http.post("/api/people", json={"fullName": "Ada", "limit": 7}).json()
    assert (made["fullName"], made["limit"], made["id"][:7]) == ("Ada", 7, "people_")
    path = f"/api/people/{made['id']}"
    assert http.patch(path, json={"full_name": "Bo"}).json()["fullName"] == "Bo"
    assert http.patch(path, json={"stray": 1}).status_code == 422
    assert [one["id"] for one in http.get("/api/people?fullName=Bo&limit=1").json()["data"]] == [made["id"]]
    assert http.get("/api/people?fullName=Ada").json()["data"] == []


async def test_projects_do_not_see_each_other(app: Backtalk, url: str) -> None:
    one, other = [(await app.access.create(project, "test"))[1] for project in ("one", "other")]
    with httpx2.Client(base_url=url) as anyone:
        refused = anyone.get("/notes")
        assert (refused.status_code, list(refused.json())) == (401, ["detail"])
    with (
        httpx2.Client(base_url=url, headers={"authorization": f"Bearer {one}"}) as mine,
        httpx2.Client(base_url=url, headers={"authorization": f"Bearer {other}"}) as theirs,
    ):
        made = add(mine, title="Mine")
        path = f"/notes/{made['id']}"
        assert theirs.get("/notes").json()["data"] == []
        assert theirs.get("/notes", params={"title": "Mine"}).json()["data"] == []
        assert theirs.get("/notes", params={"after": made["id"]}).status_code == 400
        assert theirs.get("/people/" + made["id"]).status_code == 404
        for method in ("GET", "PUT", "PATCH", "DELETE"):
            assert theirs.request(method, path, json={"title": "Theirs"}).status_code == 404
        assert mine.get(path).json() == made
        assert mine.get(path.replace("/notes/", "/drafts/")).status_code == 404


def test_searched(app: Backtalk, http: httpx2.Client) -> None:
    made = [
        http.post("/drafts", json={"title": title, "body": body, "stars": stars}).json()
        for title, body, stars in (
            ("Penguins", "They swim in the cold south and eat krill.", 1),
            ("Lions", "They sleep for twenty hours a day.", 2),
            ("More penguins", "Penguins, penguins and krill.", 1),
        )
    ]

    def found(**params: Any) -> list[str]:
        answer = http.get("/drafts", params=params)
        assert answer.status_code == 200, answer.text
        return [one["title"] for one in answer.json()["data"]]

    until(lambda: len(found(q="krill penguins lions")) == 3)
    assert found(q="lions sleep")[0] == "Lions"
    assert found(q="penguins krill", stars=2) == ["Lions"]
    first = http.get("/drafts", params={"q": "penguins krill", "limit": 1}).json()
    assert first["has_more"]
    rest = found(q="penguins krill", after=first["last_id"])
    assert sorted([first["data"][0]["title"], *rest]) == ["Lions", "More penguins", "Penguins"]
    assert http.get("/drafts", params={"q": "a", "after": "drafts_0"}).status_code == 400
    assert http.get("/drafts", params={"q": "a", "order_by": "title"}).status_code == 400
    assert http.get("/drafts", params={"q": ""}).status_code == 422

    (store,) = http.get("/v1/vector_stores").json()["data"]
    assert (store["name"], store["metadata"]) == ("drafts", {"resource": "drafts"})

    def hits(query: str) -> list[Any]:
        answer = http.post(f"/v1/vector_stores/{store['id']}/search", json={"query": query}).json()
        return [(hit["attributes"]["id"], hit["content"][0]["text"]) for hit in answer["data"]]

    assert hits("lions")[0] == (
        made[1]["id"],
        "title: Lions\nbody: They sleep for twenty hours a day.\ncolor: red\nmood: good",
    )
    http.patch(f"/drafts/{made[1]['id']}", json={"body": "They hunt zebras at night."})
    until(lambda: any("zebras" in text for _, text in hits("zebras")))
    assert not any("twenty" in text for _, text in hits("twenty hours"))
    http.delete(f"/drafts/{made[1]['id']}")
    until(lambda: len(http.get("/v1/files").json()["data"]) == 2)
    assert not any("zebras" in text for _, text in hits("zebras"))
    assert "Lions" not in found(q="lions")

    assert http.delete(f"/v1/vector_stores/{store['id']}").status_code == 200  # it is made anew, with all that is there
    until(lambda: len(found(q="krill")) == 2)
    assert len(http.get("/v1/files").json()["data"]) == 2


def test_patches_at_once_all_hold(http: httpx2.Client) -> None:
    path = f"/notes/{add(http, title='One')['id']}"
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda at: http.patch(path, json={"more": {f"k{at}": at}}), range(24)))
    assert {answer.status_code for answer in answers} == {200}
    assert http.get(path).json()["more"] == {f"k{at}": at for at in range(24)}


def test_a_job_that_runs_again_and_at_once_leaves_one_document(app: Backtalk, http: httpx2.Client) -> None:
    made = http.post("/drafts", json={"title": "Penguins"}).json()
    payload = {"kind": "drafts", "id": made["id"]}
    with create_engine(app.storage.engine.url).begin() as connection:
        for _ in range(6):
            enqueue(connection, "default", store.DOCUMENT, payload)
        store.sweep(connection, "default", "drafts", 0)
    connection.engine.dispose()

    def settled() -> bool:
        with create_engine(app.storage.engine.url).begin() as connection:
            left = connection.scalar(select(func.count()).select_from(jobs))
        connection.engine.dispose()
        return left == 0

    until(settled)
    (file,) = http.get("/v1/files").json()["data"]
    (stored,) = http.get("/v1/vector_stores").json()["data"]
    assert file["filename"] == f"{made['id']}.md"
    assert stored["file_counts"]["completed"] == stored["file_counts"]["total"] == 1


def test_a_resource_in_a_host_application(tmp_path: Path) -> None:
    host = FastAPI()
    talk = backtalk.mount(host, Settings(home=tmp_path, discover=False))
    host.include_router(talk.resource("notes", Note))
    with serve(host) as url, httpx2.Client(base_url=url) as http:
        made = add(http, title="One")
        assert titles(http) == ["One"]
        assert http.get(f"/notes/{made['id']}x").json() == {"detail": f"No object with id '{made['id']}x' in 'notes'."}


def test_documented(app: Backtalk) -> None:
    schema = app.openapi()
    assert {*schema["paths"]["/notes"]} == {"get", "post"}
    assert {*schema["paths"]["/notes/{id}"]} == {"get", "put", "patch", "delete"}
    names = {one["name"]: one["schema"] for one in schema["paths"]["/notes"]["get"]["parameters"]}
    assert {*names} == {
        "limit", "after", "order", "order_by", "title", "body", "stars", "weight", "done", "color", "size", "mood", "due"
    }  # fmt: skip
    assert "q" in {one["name"] for one in schema["paths"]["/drafts"]["get"]["parameters"]}
    assert schema["paths"]["/api/people"]["get"]["tags"] == ["People"]
    components = schema["components"]["schemas"]
    assert {"title", "place", "id", "created_at", "updated_at"} <= {*components["StoredNote"]["properties"]}
    assert components["NotePatch"].get("required") is None
    assert components["NotePage"]["properties"]["data"]["items"] == {"$ref": "#/components/schemas/StoredNote"}
    assert json.dumps(schema)


def test_what_cannot_be_a_resource_is_refused_when_declared(tmp_path: Path) -> None:
    class Ours(BaseModel):
        id: str

    class Split(BaseModel):
        name: str = Field(validation_alias="a", serialization_alias="b")

    class Root(RootModel[list[int]]):
        pass

    app = Backtalk(Settings(home=tmp_path, discover=False))
    app.resource("notes", Note)
    for name, model in (
        ("a", Ours),
        ("b", Split),
        ("c", Root),
        ("d", dict),
        ("notes", Note),
        ("A b", Note),
        ("", Note),
    ):
        with pytest.raises(ValueError, match=r"resource|field"):
            app.resource(name, model)  # type: ignore[arg-type]

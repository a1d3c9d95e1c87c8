"""`/v1/files` through the official SDK and through raw HTTP, over a real server."""

import asyncio
import io
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio
from fastapi import FastAPI
from openai.types import FileDeleted, FileObject

from backtalk.domain.caller import Caller
from backtalk.files.routes import routes
from backtalk.files.service import Files
from backtalk.http import errors
from backtalk.storage import Storage
from running import served


class AsProject:
    """Stands where the gate stands: the bearer token is the project."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        token = dict(scope["headers"]).get(b"authorization", b"Bearer default").decode().removeprefix("Bearer ")
        scope.setdefault("state", {})["caller"] = Caller(token)
        await self.app(scope, receive, send)


@pytest.fixture
def files(storage: Storage, tmp_path: Path) -> Files:
    return Files(storage, tmp_path / "files")


@pytest_asyncio.fixture
async def url(files: Files) -> AsyncIterator[str]:
    app = FastAPI()
    app.include_router(routes(files))
    errors.install(app, lambda path: path.startswith("/v1"))
    async with served(AsProject(app)) as base:
        yield f"{base}/v1"


@pytest_asyncio.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=url, api_key="default", max_retries=0, _strict_response_validation=True
    ) as made:
        yield made


def blobs(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "files").rglob("*") if path.is_file()]


async def test_upload_read_list_delete(client: openai.AsyncOpenAI, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    made = await client.files.create(
        file=("räport.pdf", data), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert type(made) is FileObject
    assert (made.filename, made.bytes, made.purpose, made.status) == ("räport.pdf", len(data), "user_data", "processed")
    assert made.id.startswith("file-")
    assert made.expires_at == made.created_at + 3600
    assert await client.files.retrieve(made.id) == made
    assert (await client.files.content(made.id)).content == data
    assert [file async for file in client.files.list()] == [made]
    gone = await client.files.delete(made.id)
    assert gone == FileDeleted(id=made.id, deleted=True, object="file")
    with pytest.raises(openai.NotFoundError, match="No such File object"):
        await client.files.retrieve(made.id)
    assert blobs(tmp_path) == []


async def test_nothing_of_ours_leaks_into_the_object(url: str, client: openai.AsyncOpenAI) -> None:
    made = await client.files.create(file=("a.txt", b"x"), purpose="assistants")
    assert set(made.model_dump()) == {
        "id", "object", "bytes", "created_at", "expires_at", "filename", "purpose", "status", "status_details",
    }  # fmt: skip


async def test_lists_page_in_order_of_creation(client: openai.AsyncOpenAI) -> None:
    ids = [(await client.files.create(file=(f"{n}.txt", b"x"), purpose="assistants")).id for n in range(5)]
    await client.files.create(file=("other.txt", b"x"), purpose="batch")
    ascending = [file.id async for file in client.files.list(limit=2, order="asc", purpose="assistants")]
    assert ascending == ids
    descending = [file.id async for file in client.files.list(limit=2, purpose="assistants")]
    assert descending == ids[::-1]
    first = await client.files.list(limit=2, order="asc")
    assert (first.has_more, [file.id for file in first.data]) == (True, ids[:2])
    assert len((await client.files.list()).data) == 6
    assert (await client.files.list(purpose="vision")).data == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("limit=x", "limit"),
        ("order=up", "order"),
        ("after=no", "after"),
    ],
)
async def test_bad_lists_are_refused(url: str, query: str, param: str) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/files?{query}") as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["param"] == param


def form(**fields: Any) -> aiohttp.FormData:
    made = aiohttp.FormData()
    for name, value in fields.items():
        if isinstance(value, bytes):
            made.add_field(name, value, filename="a.txt")
        else:
            made.add_field(name.replace("__", "[") + ("]" if "__" in name else ""), value)
    return made


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"purpose": "assistants"}, "file", "missing_required_parameter"),
        ({"purpose": "assistants", "file": "text, not a file"}, "file", None),
        ({"purpose": "assistants", "file": b""}, "file", "invalid_value"),
        ({"file": b"x"}, "purpose", "missing_required_parameter"),
        ({"purpose": "mischief", "file": b"x"}, "purpose", "invalid_value"),
        (
            {"purpose": "batch", "file": b"x", "expires_after__anchor": "created_at"},
            "expires_after[seconds]",
            "missing_required_parameter",
        ),
        (
            {"purpose": "batch", "file": b"x", "expires_after__seconds": "3600"},
            "expires_after[anchor]",
            "missing_required_parameter",
        ),
        (
            {"purpose": "batch", "file": b"x", "expires_after__anchor": "created_at", "expires_after__seconds": "3599"},
            "expires_after[seconds]",
            "invalid_value",
        ),
        (
            {"purpose": "batch", "file": b"x", "expires_after__anchor": "today", "expires_after__seconds": "3600"},
            "expires_after[anchor]",
            "invalid_value",
        ),
    ],
)
async def test_bad_uploads_are_refused_and_leave_nothing(
    url: str, tmp_path: Path, fields: dict[str, Any], param: str, code: str | None
) -> None:
    async with aiohttp.ClientSession() as http, http.post(f"{url}/files", data=form(**fields)) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, error["param"]) == (400, param)
        assert code is None or error["code"] == code
    assert blobs(tmp_path) == []


@pytest.mark.parametrize("body", [b"{}", b"--x\r\nnonsense", b""])
async def test_a_body_that_is_no_form_is_a_400(url: str, body: bytes) -> None:
    for content_type in ("application/json", "multipart/form-data; boundary=x", "multipart/form-data"):
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{url}/files", data=body, headers={"content-type": content_type}) as answer,
        ):
            assert answer.status == 400
            assert set((await answer.json())["error"]) == {"message", "type", "param", "code"}


async def test_content_is_never_a_page_of_ours(url: str, client: openai.AsyncOpenAI) -> None:
    made = await client.files.create(file=("evil.html", b"<script>1</script>", "text/html"), purpose="assistants")
    async with aiohttp.ClientSession() as http, http.get(f"{url}/files/{made.id}/content") as answer:
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"] == 'attachment; filename="evil.html"'
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "sandbox"
        assert await answer.read() == b"<script>1</script>"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\notes.md", "notes.md"),
        ("..", "file"),
        ("dir/", "file"),
        ('a"; x=b\r\nset-cookie: c', 'a"; x=bset-cookie: c'),
        ("nul\0l.txt", "null.txt"),
        ("资料 – été.txt", "资料 – été.txt"),
        ("x" * 400 + ".pdf", "x" * 251 + ".pdf"),
    ],
)
async def test_filenames_are_made_harmless(files: Files, url: str, sent: str, kept: str) -> None:
    record = await files.create("default", sent, io.BytesIO(b"x"), purpose="assistants")
    assert record.filename == kept
    assert (await files.get("default", record.id)).filename == kept
    async with aiohttp.ClientSession() as http, http.get(f"{url}/files/{record.id}/content") as answer:
        assert answer.status == 200
        assert "set-cookie" not in answer.headers
        assert answer.headers["content-disposition"].startswith("attachment; ")


async def test_a_foreign_file_answers_as_one_that_never_was(url: str, client: openai.AsyncOpenAI) -> None:
    made = await client.files.create(file=("a.txt", b"mine"), purpose="assistants")
    async with aiohttp.ClientSession(headers={"authorization": "Bearer stranger"}) as http:
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
            answers = []
            for file_id in (made.id, "file-never"):
                async with http.request(method, f"{url}/files/{file_id}{path}") as answer:
                    answers.append((answer.status, (await answer.text()).replace(file_id, "ID")))
            assert answers[0] == answers[1]
            assert answers[0][0] == 404
        async with http.get(f"{url}/files") as answer:
            assert (await answer.json())["data"] == []
        async with http.get(f"{url}/files?after={made.id}") as answer:
            assert answer.status == 400
    assert (await client.files.content(made.id)).content == b"mine"


@pytest.mark.parametrize("file_id", ["%00", "..%2F..%2Fetc", "%F0%9F%92%A9", "x" * 5000])
async def test_nonsense_ids_are_client_errors(url: str, file_id: str) -> None:
    async with aiohttp.ClientSession() as http:
        for path in (f"files/{file_id}", f"files/{file_id}/content", f"files?after={file_id}"):
            async with http.get(f"{url}/{path}") as answer:
                assert answer.status in (400, 404)


async def test_deleting_tells_the_other_rooms_first(files: Files) -> None:
    seen: list[tuple[str, str, str]] = []
    record = await files.create("p", "a.txt", io.BytesIO(b"x"), purpose="assistants")

    async def hook(project: str, file_id: str) -> None:
        seen.append((project, file_id, (await files.get(project, file_id)).filename))

    files.on_delete(hook)
    await files.delete("p", record.id)
    assert seen == [("p", record.id, "a.txt")]


async def test_a_failing_hook_keeps_the_file(files: Files) -> None:
    record = await files.create("p", "a.txt", io.BytesIO(b"x"), purpose="assistants")
    broken = [True]

    async def hook(project: str, file_id: str) -> None:
        if broken:
            raise RuntimeError("the index does not answer")

    files.on_delete(hook)
    with pytest.raises(RuntimeError):
        await files.delete("p", record.id)
    assert files.path("p", record.id).read_bytes() == b"x"
    assert (await files.get("p", record.id)) == record
    broken.clear()
    await files.delete("p", record.id)
    assert not files.path("p", record.id).exists()


async def test_expired_files_are_gone_and_then_swept(files: Files, client: openai.AsyncOpenAI) -> None:
    seen: list[str] = []

    async def hook(project: str, file_id: str) -> None:
        seen.append(file_id)

    files.on_delete(hook)
    old = await files.create("default", "a.txt", io.BytesIO(b"x"), purpose="assistants", expires_in=-1)
    new = await files.create("default", "b.txt", io.BytesIO(b"y"), purpose="assistants", expires_in=3600)
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(old.id)
    assert [file.id async for file in client.files.list()] == [new.id]
    assert await files.sweep() == 1
    assert seen == [old.id]
    assert not files.path("default", old.id).exists()
    assert files.path("default", new.id).read_bytes() == b"y"
    assert await files.sweep() == 0


async def test_the_sweeper_runs_by_itself(files: Files) -> None:
    old = await files.create("p", "a.txt", io.BytesIO(b"x"), purpose="assistants", expires_in=-1)
    await files.start()
    async with asyncio.timeout(20):
        while files.path("p", old.id).exists():
            await asyncio.sleep(0.01)
    await files.stop()


async def test_a_source_that_breaks_off_leaves_nothing(files: Files, tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError("the line went dead")

    with pytest.raises(OSError, match="dead"):
        await files.create("p", "a.txt", Broken(), purpose="assistants")
    assert blobs(tmp_path) == []

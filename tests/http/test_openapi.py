"""`/openapi.json` is valid, complete and true: what it shows runs, and what comes back is what it says."""

import asyncio
import importlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from pydantic import BaseModel

from backtalk import Backtalk, Settings
from backtalk.testing import ScriptedModel, serve

VERBS = ("get", "post", "put", "patch", "delete")
Document = dict[str, Any]


class ErrorEnvelope(BaseModel):
    """A user's model of the same name as one of ours."""

    mine: int


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("home")
    app = Backtalk(Settings(home=home, discover=False, model="scripted"), models=[ScriptedModel()])
    with serve(app) as found:
        yield found


@pytest.fixture(scope="module")
def document(url: str) -> Document:
    found: Document = httpx2.get(f"{url}/openapi.json").json()
    return found


def operations(document: Document) -> list[tuple[str, str, Document]]:
    return [
        (path, verb, operation)
        for path, item in document["paths"].items()
        for verb, operation in item.items()
        if verb in VERBS and path.startswith(("/v1/", "/healthz", "/readyz"))
    ]


def test_it_is_valid_openapi_3_1(document: Document) -> None:
    assert document["openapi"].startswith("3.1.")
    validate(document)


def test_every_operation_tells_what_it_does_and_answers(document: Document) -> None:
    tags = {tag["name"] for tag in document["tags"] if tag["description"]}
    names = set()
    for path, verb, operation in operations(document):
        where = f"{verb} {path}"
        names.add(operation["operationId"])
        assert operation["operationId"].isidentifier(), where
        assert operation["summary"], where
        assert set(operation["tags"]) <= tags, where
        answers = operation["responses"]
        assert "422" not in answers, where
        assert answers["200"]["description"] != "Successful Response", where
        if path.startswith("/v1/"):
            assert {"400", "401", "default"} <= set(answers), where
            assert ("404" in answers) >= ("{" in path), where
            assert all(parameter.get("description") for parameter in operation.get("parameters", ())), where
            [(kind, content)] = list(answers["200"]["content"].items())[:1]
            assert content["schema"].get("$ref") or kind == "application/octet-stream", where
    assert len(names) == len(operations(document)) >= 40


def test_streams_are_shown(document: Document) -> None:
    streamed = {
        operation["operationId"]: operation["responses"]["200"]["content"]["text/event-stream"]["example"]
        for _, _, operation in operations(document)
        if "text/event-stream" in operation["responses"]["200"].get("content", {})
    }
    messages = streamed.pop("createMessage")
    assert messages.endswith('\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert set(streamed) == {"createResponse", "retrieveResponse", "createChatCompletion"}
    assert all(frames.endswith("\n\ndata: [DONE]\n\n") for frames in streamed.values())


def test_a_key_is_for_our_operations_only(document: Document) -> None:
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    secured = {
        path for path, item in document["paths"].items() for operation in item.values() if "security" in operation
    }
    assert secured == {path for path in document["paths"] if path.startswith("/v1/")}


def test_a_users_own_operation_stays_as_fastapi_makes_it(tmp_path: Path) -> None:
    app = Backtalk(Settings(home=tmp_path, discover=False), openapi_tags=[{"name": "Notes", "description": "Mine."}])
    before = app.openapi()

    @app.post("/notes/{number}", tags=["Notes"])
    def note(number: int, body: ErrorEnvelope) -> ErrorEnvelope:
        return body

    document = app.openapi()
    assert "/notes/{number}" not in before["paths"]
    assert document["tags"][-1]["name"] == "Notes"
    note_operation = document["paths"]["/notes/{number}"]["post"]
    assert "security" not in note_operation
    assert set(note_operation["responses"]) == {"200", "422"}
    schemas = document["components"]["schemas"]
    assert set(schemas["ErrorEnvelope"]["properties"]) == {"mine"}
    assert "HTTPValidationError" in schemas
    validate(document)


def resolved(document: Document, schema: Document) -> Draft202012Validator:
    return Draft202012Validator({"components": document["components"], **schema})


def body_examples(document: Document, operation: Document) -> list[Any]:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return []
    if "examples" in content:
        return [example["value"] for example in content["examples"].values()]
    schema = content["schema"]
    schema = next((one for one in schema.get("anyOf", ()) if "$ref" in one), schema)
    model = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "examples" in model:
        found: list[Any] = model["examples"]
        return found
    return [{name: given["examples"][0] for name, given in model["properties"].items() if "examples" in given}]


class Walk:
    """Calls every operation as the document shows it, on objects that earlier calls made."""

    def __init__(self, document: Document, url: str) -> None:
        self.document = document
        self.http = httpx2.Client(base_url=url, timeout=30)
        self.by_name = {
            operation["operationId"]: (path, verb, operation) for path, verb, operation in operations(document)
        }
        self.ids: dict[str, str] = {"model": "backtalk/static"}
        self.called: set[str] = set()

    def call(self, name: str, keep: str | None = None, **options: Any) -> Any:
        path, verb, operation = self.by_name[name]
        self.called.add(name)
        bodies = body_examples(self.document, operation) or [None]
        answer = None
        for body in reversed(bodies):
            if body is not None:
                options["json"] = self.with_ids(body)
            reply = self.http.request(verb, path.format(**self.ids), **options)
            assert reply.status_code == 200, f"{name}: {reply.text}"
            answer = self.checked(name, operation, reply)
        if keep:
            self.ids[keep] = answer["id"]
        return answer

    def refused(self, name: str, status: int) -> None:
        """What this server lacks a part for: the example is understood, and the refusal is as documented."""
        path, verb, operation = self.by_name[name]
        self.called.add(name)
        for body in body_examples(self.document, operation):
            reply = self.http.request(verb, path, json=body)
            assert (reply.status_code, reply.json()["error"]["code"]) == (status, "model_not_found")
            assert str(status) in operation["responses"]

    def checked(self, name: str, operation: Document, reply: httpx2.Response) -> Any:
        kind = reply.headers["content-type"].partition(";")[0]
        content = operation["responses"]["200"]["content"][kind]
        if kind != "application/json":
            return reply.text
        answer = reply.json()
        mistakes = [error.message for error in resolved(self.document, content["schema"]).iter_errors(answer)]
        assert mistakes == [], name
        return answer

    def with_ids(self, body: Any) -> Any:
        """The example with the file that there is in place of `file-…`, the only thing that has to be filled in."""
        if isinstance(body, dict):
            return {key: self.with_ids(value) for key, value in body.items()}
        if isinstance(body, list):
            return [self.with_ids(value) for value in body]
        return self.ids["file_id"] if body == "file-…" else body


def test_everything_runs_as_it_is_shown_and_answers_as_it_says(document: Document, url: str) -> None:
    walk = Walk(document, url)
    call = walk.call
    for name in ("getHealth", "getReadiness", "listModels", "retrieveModel", "createEmbeddings", "createRerank"):
        call(name)

    walk.refused("createModeration", 404)
    call("createChatCompletion")
    stored = {"messages": [{"role": "user", "content": "Hello!"}], "store": True}
    walk.ids["completion_id"] = walk.http.post("/v1/chat/completions", json=stored).json()["id"]
    for name in ("listChatCompletions", "retrieveChatCompletion", "listChatCompletionMessages"):
        call(name)
    call("updateChatCompletion")
    call("deleteChatCompletion")
    call("createCompletion")
    call("createMessage")
    call("countMessageTokens")
    call("countResponseInputTokens")
    call("compactResponse")
    call("createResponse", "response_id")
    for name in ("retrieveResponse", "listResponseInputItems", "retrieveResponseContext", "cancelResponse"):
        call(name)
    call("retrieveResponse", params={"stream": "true", "starting_after": 0})

    call("createConversation", "conversation_id")
    walk.ids["item_id"] = call("createConversationItems")["data"][0]["id"]
    for name in ("listConversations", "retrieveConversation", "updateConversation", "listConversationItems"):
        call(name)
    for name in ("retrieveConversationItem", "deleteConversationItem", "deleteConversation"):
        call(name)

    text = b"Every employee has 28 days of paid leave a year."
    call("uploadFile", "file_id", files={"file": ("leave.md", text)}, data={"purpose": "assistants"})
    for name in ("listFiles", "retrieveFile", "downloadFile"):
        call(name)
    call("createVectorStore", "store_id")
    call("createVectorStoreFile")
    deadline = time.monotonic() + 40
    while call("retrieveVectorStoreFile")["status"] != "completed":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert call("searchVectorStore")["data"][0]["filename"] == "leave.md"
    for name in ("listVectorStores", "retrieveVectorStore", "updateVectorStore", "listVectorStoreFiles"):
        call(name)
    call("updateVectorStoreFile")
    assert call("retrieveVectorStoreFileContent")["data"][0]["text"] == text.decode()
    call("deleteVectorStoreFile")
    call("createVectorStoreFileBatch", "batch_id")
    for name in ("retrieveVectorStoreFileBatch", "listFilesInVectorStoreFileBatch", "cancelVectorStoreFileBatch"):
        call(name)
    for name in ("deleteVectorStore", "deleteFile", "deleteResponse"):
        call(name)
    assert walk.called == set(walk.by_name)


def test_errors_are_as_they_are_documented(document: Document, url: str) -> None:
    for path, body, status in [
        ("/v1/responses", {}, "400"),
        ("/v1/vector_stores/vs_none/search", {"query": "a"}, "404"),
    ]:
        reply = httpx2.post(url + path, json=body)
        assert str(reply.status_code) == status
        named = document["components"]["responses"][{"400": "BadRequest", "404": "NotFound"}[status]]
        shown = named["content"]["application/json"]["example"]["error"]
        assert shown.keys() == reply.json()["error"].keys()
        assert shown["type"] == reply.json()["error"]["type"]


def test_a_generated_client_works(
    document: Document, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yml").write_text("post_hooks: []\n")
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning", "--meta", "none"]
    options = ["--url", f"{url}/openapi.json", "--output-path", "backtalk_generated", "--config", "config.yml"]
    made = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stdout + made.stderr
    monkeypatch.syspath_prepend(tmp_path)
    generated = importlib.import_module("backtalk_generated")
    models = importlib.import_module("backtalk_generated.models")

    def api(name: str) -> Any:
        return importlib.import_module(f"backtalk_generated.api.{name}")

    async def use() -> None:
        async with generated.AuthenticatedClient(base_url=url, token="any-will-do-here") as client:
            create, get = api("responses.create_response"), api("responses.retrieve_response")
            made = await create.asyncio(client=client, body=models.CreateResponse(input_="Hello"))
            assert isinstance(made, models.ResponseObject)
            assert made.output[0].to_dict()["content"][0]["text"] == "You said: Hello"
            assert await get.asyncio(made.id, client=client) == made
            found = await api("models.list_models").asyncio(client=client)
            assert "scripted" in [model.id.rpartition("/")[2] for model in found.data]
            missing = await get.asyncio("resp_none", client=client)
            assert isinstance(missing, models.ErrorEnvelope)

    asyncio.run(use())

"""/docs in a real browser that cannot reach anything but this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Page, browse

from backtalk import Backtalk, Settings
from backtalk.testing import ScriptedModel, serve

LIST_MODELS = "#operations-Models-listModels"
CREATE_RESPONSE = "#operations-Responses-createResponse"


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    app = Backtalk(Settings(home=tmp_path / "home", discover=False), models=[ScriptedModel()])

    @app.post("/first-key")
    async def first_key() -> str:
        return (await app.access.create())[1]

    with serve(app) as found:
        yield found


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    (tmp_path / "browser").mkdir()
    with browse(tmp_path / "browser") as tab:
        yield tab


def execute(page: Page, operation: str) -> tuple[str, str]:
    """Opens an operation, runs it as it stands, and tells the status and the body that are shown."""
    if not page.run(f"!!document.querySelector('{operation} .execute')"):
        page.click(f"{operation} .opblock-summary-control")
        page.click(f"{operation} .try-out__btn")
    page.click(f"{operation} .execute")
    shown = f"{operation} .live-responses-table tr.response"
    return page.text(f"{shown} .response-col_status").strip()[:3], page.text(f"{shown} .response-col_description pre")


def test_every_operation_is_shown_and_nothing_leaves_the_machine(page: Page, url: str) -> None:
    page.open(f"{url}/docs")
    assert "Backtalk" in page.text(".info .title")
    page.text(CREATE_RESPONSE)
    document = page.run("fetch('/openapi.json').then(answer => answer.json())")
    operations = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    shown = page.run("[...document.querySelectorAll('.opblock')].map(block => block.id)")
    assert sorted(block.rpartition("-")[2] for block in shown) == sorted(operations)

    status, body = execute(page, LIST_MODELS)
    assert status == "200"
    assert "backtalk/static" in body
    status, body = execute(page, CREATE_RESPONSE)
    assert status == "200"
    assert '"completed"' in body

    elsewhere = [asked for asked in page.requests if not asked.startswith((f"{url}/", "data:", "blob:"))]
    assert elsewhere == []
    assert page.complaints == []


def test_a_key_is_taken_and_used(page: Page, url: str) -> None:
    key = page_key(page, url)
    page.open(f"{url}/docs")  # the page itself needs none
    assert execute(page, LIST_MODELS)[0] == "401"
    page.click(".auth-wrapper .authorize")
    page.type(".auth-container input", key)
    page.click(".auth-btn-wrapper .authorize")
    page.click(".auth-btn-wrapper .btn-done")
    page.click(f"{LIST_MODELS} .btn-clear")
    assert execute(page, LIST_MODELS)[0] == "200"


def page_key(page: Page, url: str) -> str:
    page.open(f"{url}/docs")
    page.text(LIST_MODELS)
    key: str = page.run("fetch('/first-key', {method: 'POST'}).then(answer => answer.json())")
    return key

"""/docs and its assets, as plain HTTP serves them."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

import backtalk
from backtalk import Backtalk, Settings
from backtalk.testing import serve
from running import served

ASSETS = Path(backtalk.__file__).parent / "http/docs_assets"


def make(home: Path, **options: object) -> Backtalk:
    return Backtalk(Settings(home=home, discover=False), **options)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(make(tmp_path_factory.mktemp("home"))) as found:
        yield found


def test_the_page_names_only_files_of_ours(url: str) -> None:
    page = httpx2.get(f"{url}/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(named) == 4
    for path in named:
        asset = httpx2.get(url + path)
        assert asset.status_code == 200
        assert asset.headers["x-content-type-options"] == "nosniff"
        assert len(asset.content) > 100


def test_the_page_allows_nothing_inline_and_nothing_foreign(url: str) -> None:
    headers = httpx2.get(f"{url}/docs").headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"


@pytest.mark.parametrize("name", ["nothing.js", "..%2fdocs.py", "swagger-ui-bundle.js.gz"])
def test_no_other_file_is_served(url: str, name: str) -> None:
    reply = httpx2.get(f"{url}/docs/assets/{name}")
    assert reply.status_code == 404
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_a_foreign_host_sees_nothing(url: str) -> None:
    for path in ("/docs", "/docs/assets/docs.js", "/openapi.json"):
        assert httpx2.get(url + path, headers={"host": "evil.example"}).status_code == 421


def test_what_is_shipped_is_whole_and_has_its_licence() -> None:
    bundle = gzip.decompress((ASSETS / "swagger-ui-bundle.js.gz").read_bytes())
    assert b"SwaggerUIBundle" in bundle
    assert b".swagger-ui" in gzip.decompress((ASSETS / "swagger-ui.css.gz").read_bytes())
    assert "Apache License" in (ASSETS / "LICENSE").read_text("utf-8")
    assert "SmartBear" in (ASSETS / "NOTICE").read_text("utf-8")


def test_options_go_to_swagger_ui_escaped(tmp_path: Path) -> None:
    app = make(tmp_path, title="<Notes>", swagger_ui_parameters={"docExpansion": '"><script>'})
    with serve(app) as url:
        page = httpx2.get(f"{url}/docs").text
    assert "<title>&lt;Notes&gt;</title>" in page
    assert "docExpansion" in page
    assert "<script>" not in page


def test_the_page_moves_or_goes_away_as_fastapis_does(tmp_path: Path) -> None:
    with serve(make(tmp_path / "a", docs_url="/reference")) as url:
        assert "swagger" in httpx2.get(f"{url}/reference").text
        assert httpx2.get(f"{url}/docs").status_code == 404
    with serve(make(tmp_path / "b", docs_url=None)) as url:
        assert httpx2.get(f"{url}/docs").status_code == 404
        assert httpx2.get(f"{url}/openapi.json").status_code == 200


async def test_behind_a_prefix_the_page_names_what_the_browser_can_reach(tmp_path: Path) -> None:
    async with served(make(tmp_path), root_path="/ai") as url, httpx2.AsyncClient() as http:
        page = (await http.get(f"{url}/docs")).text
    assert 'src="/ai/docs/assets/docs.js"' in page
    assert "/ai/openapi.json" in page

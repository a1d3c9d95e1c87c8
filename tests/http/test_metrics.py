"""`/metrics`: figures that add up, guarded as everything else of ours, and absent unless asked for."""

from pathlib import Path

import httpx2
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from backtalk import Backtalk, Settings, mount
from backtalk.testing import ScriptedModel, client, serve
from support import until


def settings(tmp_path: Path, *, metrics: bool = True) -> Settings:
    return Settings(home=tmp_path, discover=False, model="scripted", metrics=metrics)


def figures(url: str) -> dict[tuple[str, ...], float]:
    reply = httpx2.get(f"{url}/metrics")
    assert reply.status_code == 200
    samples = [sample for family in text_string_to_metric_families(reply.text) for sample in family.samples]
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


def test_requests_tokens_and_first_tokens_are_counted(tmp_path: Path) -> None:
    with serve(Backtalk(settings(tmp_path), models=[ScriptedModel()])) as url:
        answer = client(url).responses.create(input="Hello")
        httpx2.get(f"{url}/v1/responses/resp_x")
        httpx2.get(f"{url}/v1/nonsense/of/a/stranger")
        counted = until(lambda: (found := figures(url)) and len(found) > 20 and found)
    assert counted["backtalk_requests_total", "POST", "/v1/responses", "200"] == 1
    assert counted["backtalk_requests_total", "GET", "/v1/responses/{response_id}", "404"] == 1
    assert counted["backtalk_requests_total", "GET", "other", "404"] == 1
    assert answer.usage is not None
    assert counted["backtalk_tokens_total", "input"] == answer.usage.input_tokens
    assert counted["backtalk_tokens_total", "output"] == answer.usage.output_tokens
    assert counted[("backtalk_first_token_seconds_count",)] == 1
    assert counted[("backtalk_runs_in_progress",)] == 0


def test_runs_in_progress_are_counted(tmp_path: Path) -> None:
    with serve(Backtalk(settings(tmp_path), models=[ScriptedModel()])) as url:
        stalled = client(url).responses.create(input="[[stall:2]] Hello", background=True)
        assert figures(url)[("backtalk_runs_in_progress",)] == 1
        client(url).responses.cancel(stalled.id)
        until(lambda: figures(url)[("backtalk_runs_in_progress",)] == 0)


def test_they_are_not_for_strangers(tmp_path: Path) -> None:
    with serve(Backtalk(settings(tmp_path))) as url:
        assert httpx2.get(f"{url}/metrics", headers={"x-forwarded-for": "192.0.2.1"}).status_code == 401


def test_the_path_is_the_users_unless_asked_for(tmp_path: Path) -> None:
    app = Backtalk(settings(tmp_path, metrics=False))

    @app.get("/metrics")
    def mine() -> str:
        return "mine"

    with serve(app) as url:
        assert httpx2.get(f"{url}/metrics").json() == "mine"


def test_a_host_application_shows_them_too(tmp_path: Path) -> None:
    host = FastAPI()
    mount(host, settings(tmp_path))
    with serve(host) as url:
        assert httpx2.get(f"{url}/v1/models").status_code == 200
        assert figures(url)["backtalk_requests_total", "GET", "/v1/models", "200"] == 1

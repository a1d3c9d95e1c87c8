"""The connection that breaks is the database's: a commit is done, its answer is lost, and it is done again."""

import asyncio
from pathlib import Path

import pytest
from resume_proxy import lossy_way
from resume_wire import Line, checked, response_id, seen

from backtalk import Backtalk, Settings
from backtalk.testing import ScriptedModel, serve

BODY = {"input": "[[think]] [[pace:0.02]] [[tokens:100]]", "background": True}


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
async def test_what_was_committed_unheard_is_told_once(database: str, tmp_path: Path) -> None:
    """A reader of the other process that comes in the middle finds some events in the database twice."""
    with lossy_way(database) as way:
        writing = Backtalk(Settings(home=tmp_path / "a", discover=False, database=way.url), models=[ScriptedModel()])
        reading = Backtalk(Settings(home=tmp_path / "b", discover=False, database=database), models=[ScriptedModel()])
        with serve(writing) as url, serve(reading) as other:
            before, last = seen(await Line(url).post(BODY, 2500))
            name = response_id(before)
            readers = [
                asyncio.create_task(line.replay(name, after))
                for line in (Line(url), Line(other))
                for after in (last, -1)
            ]
            await asyncio.sleep(0.2)
            way.armed = True
            await asyncio.sleep(0.6)
            way.armed = False
            readers.append(asyncio.create_task(Line(other).replay(name)))
            here, here_whole, there, there_whole, late = await asyncio.gather(*readers)
            whole = await Line(other).replay(name)
    assert way.lost
    assert checked(whole)[-1]["type"] == "response.completed"
    assert here_whole == there_whole == late == whole
    assert before + here == before + there == whole

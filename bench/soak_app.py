"""The application that `soak.py` and `slow_readers.py` serve: Backtalk, and a route that tells what is alive in it."""

import asyncio
import gc
from collections import Counter
from typing import Any

from backtalk import Backtalk

app = Backtalk()


@app.get("/alive")
async def alive(kinds: int = 0) -> dict[str, Any]:
    """Runs, tasks, and objects that the collector knows after it has run; of the most numerous types, if `kinds` are wanted."""
    gc.collect()
    found = gc.get_objects()
    most = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in found).most_common(kinds)
    tasks = len(asyncio.all_tasks())
    return {"runs": app.runner.running, "tasks": tasks, "objects": len(found), "kinds": dict(most)}

"""The application that `soak.py` serves: Backtalk, and a route that tells what is alive in its process."""

import asyncio
import gc
from collections import Counter
from typing import Any

from backtalk import Backtalk

app = Backtalk()


@app.get("/alive")
async def alive(kinds: int = 0) -> dict[str, Any]:
    """Tasks, and objects that the collector knows after it has run; of the most numerous types, if `kinds` are wanted."""
    gc.collect()
    found = gc.get_objects()
    most = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in found).most_common(kinds)
    return {"tasks": len(asyncio.all_tasks()), "objects": len(found), "kinds": dict(most)}

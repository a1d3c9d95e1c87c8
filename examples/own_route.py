"""A turn from a route of your own, at once or streamed, for whoever is calling."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends
from fastapi.responses import StreamingResponse

from backtalk import Backtalk, Caller, caller

app = Backtalk()
Who = Annotated[Caller, Depends(caller)]


@app.get("/summary")
async def summary(text: str, who: Who) -> dict[str, str]:
    answer = await app.respond(f"Sum up in one sentence: {text}", caller=who)
    return {"id": answer["id"], "summary": answer.text}


@app.get("/story")
async def story(about: str, who: Who) -> StreamingResponse:
    async def words() -> AsyncIterator[str]:
        async for event in app.stream(f"Tell a short story about {about}.", caller=who):
            if event["type"] == "response.output_text.delta":
                yield event["delta"]

    return StreamingResponse(words(), media_type="text/plain")

"""The smallest application: `uvicorn main:app --reload`."""

from backtalk import Backtalk

app = Backtalk()


@app.get("/")
def hello() -> dict[str, str]:
    return {"hello": "world"}

"""What the adapters of this room share: the description of a model server, and how ids of models are told apart."""

import msgspec


class Upstream(msgspec.Struct, frozen=True):
    """One model server. `url` is the base that paths such as `/chat/completions` are appended to.

    `models` names its models where it cannot list them; `adapter` is the dialect that it speaks; `concurrency` is how
    many calls it takes at once. The key never shows: not in a repr, a log or an error.
    """

    name: str
    url: str
    api_key: str | None = None
    models: tuple[str, ...] = ()
    adapter: str = "openai"
    concurrency: int | None = None

    def endpoint(self, path: str) -> str:
        return self.url.rstrip("/") + path

    def headers(self) -> dict[str, str]:
        """The authorization that this server is owed."""
        if self.adapter == "anthropic":
            return {"anthropic-version": "2023-06-01"} | ({"x-api-key": self.api_key} if self.api_key else {})
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def __repr__(self) -> str:
        return f"Upstream({self.name!r}, {self.url!r})"

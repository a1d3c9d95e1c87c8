"""What tokens cost, by a table of the operator's. There is none of our own: prices change, and ours would be wrong."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import msgspec

from backtalk.domain.model import Usage

_MILLION = 1_000_000


class Price(msgspec.Struct, frozen=True):
    """USD per million tokens for the models whose ids fit a pattern."""

    model: str
    input: float
    output: float
    cached: float | None = None
    cache_write: float | None = None

    def of(self, usage: Usage) -> float:
        """What some usage costs, in USD."""
        plain = max(0, usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens)  # some count them apart
        cached = self.input if self.cached is None else self.cached
        written = self.input if self.cache_write is None else self.cache_write
        total = plain * self.input + usage.cached_tokens * cached + usage.cache_write_tokens * written
        return (total + usage.output_tokens * self.output) / _MILLION


class Prices:
    """A table: the first entry that fits a model counts."""

    def __init__(self, table: Sequence[Price] = ()) -> None:
        self._table = table

    def cost(self, model_id: str, usage: Usage) -> float | None:
        """USD; None for a model that the table does not know."""
        found = next((price for price in self._table if fnmatchcase(model_id, price.model)), None)
        return None if found is None else found.of(usage)

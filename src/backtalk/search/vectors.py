"""Exact vector search: the vectors of a scope as one matrix in memory, made from the rows when they change."""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING

from backtalk.search.base import VECTOR_TYPE

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from backtalk.search.base import Vectors

CACHE_BYTES = 512 * 2**20


class Matrix:
    """The vectors of one scope at one version. Never changed: `updated` makes another."""

    def __init__(self, dimension: int) -> None:
        import numpy as np  # noqa: PLC0415  # lazy: heavy

        self.version = -1
        self.docs: dict[str, str] = {}
        self._dimension = dimension
        self._names: list[str] = []
        self._ids: NDArray[numpy.int64] = np.empty(0, dtype=np.int64)
        self._owners: NDArray[numpy.int32] = np.empty(0, dtype=np.int32)
        self._rows: Vectors = np.empty((0, dimension), dtype=np.float32)

    @property
    def size(self) -> int:
        """Bytes, about."""
        return self._rows.nbytes + self._ids.nbytes + self._owners.nbytes + 300 * len(self._names) + 1000

    def missing(self, docs: Mapping[str, str]) -> list[str]:
        """Those of `docs` that it does not have at their revisions."""
        return [doc for doc, revision in docs.items() if self.docs.get(doc) != revision]

    def updated(self, version: int, docs: Mapping[str, str], fresh: Iterable[tuple[int, str, bytes]]) -> "Matrix":
        """A matrix of exactly `docs`: rows of this one, and the `fresh` rows (id, document, vector) of the missing."""
        import numpy as np  # noqa: PLC0415  # lazy: heavy

        made = Matrix(self._dimension)
        made.version, made.docs, made._names = version, dict(docs), list(docs)
        places = {name: place for place, name in enumerate(made._names)}
        fresh = [row for row in fresh if row[1] in places and len(row[2]) == 2 * self._dimension]
        kept = self._kept(docs)
        moved = np.array([places.get(name, -1) for name in self._names], dtype=np.int32)
        new = np.frombuffer(b"".join(vector for _, _, vector in fresh), dtype=VECTOR_TYPE).astype(np.float32)
        made._rows = np.concatenate([self._rows[kept], new.reshape(-1, self._dimension)])
        made._ids = np.concatenate([self._ids[kept], np.array([id_ for id_, _, _ in fresh], dtype=np.int64)])
        owners = np.array([places[doc] for _, doc, _ in fresh], dtype=np.int32)
        made._owners = np.concatenate([moved[self._owners[kept]] if len(moved) else self._owners, owners])
        return made

    def search(self, queries: "Vectors", limit: int, docs: Collection[str] | None = None) -> list[dict[int, float]]:
        """For each query the nearest chunks, of `docs` only where given: cosines."""
        rows = self._of(docs)
        vectors = self._rows if rows is None else self._rows[rows]
        ids = self._ids if rows is None else self._ids[rows]
        return [_nearest(ids, vectors @ query, limit) for query in queries]

    def _kept(self, docs: Mapping[str, str]) -> "NDArray[numpy.int64]":
        """Rows whose document is unchanged."""
        return self._where([self.docs[name] == docs.get(name) for name in self._names])

    def _of(self, docs: Collection[str] | None) -> "NDArray[numpy.int64] | None":
        if docs is None:
            return None
        wanted = set(docs)
        return self._where([name in wanted for name in self._names])

    def _where(self, docs: Sequence[bool]) -> "NDArray[numpy.int64]":
        """Rows of the documents that are marked, by their place."""
        import numpy as np  # noqa: PLC0415  # lazy: heavy

        return np.flatnonzero(np.array(docs, dtype=bool)[self._owners])


def _nearest(ids: "NDArray[numpy.int64]", scores: "Vectors", limit: int) -> dict[int, float]:
    import numpy as np  # noqa: PLC0415  # lazy: heavy

    best = np.argpartition(-scores, limit)[:limit] if len(scores) > limit else np.arange(len(scores))
    best = best[np.argsort(-scores[best], kind="stable")]
    return {int(ids[place]): float(scores[place]) for place in best}


class Matrices:
    """The matrices that were used last, up to a number of bytes; the latest always stays."""

    def __init__(self, dimension: int, most_bytes: int = CACHE_BYTES) -> None:
        self._dimension = dimension
        self._most = most_bytes
        self._kept: OrderedDict[str, Matrix] = OrderedDict()
        self._lock = Lock()

    def get(self, scope: str) -> Matrix:
        """The scope's matrix, at whatever version; a new one is empty and at -1."""
        with self._lock:
            if scope in self._kept:
                self._kept.move_to_end(scope)
                return self._kept[scope]
        return Matrix(self._dimension)

    def put(self, scope: str, matrix: Matrix) -> None:
        with self._lock:
            self._kept[scope] = matrix
            self._kept.move_to_end(scope)
            while len(self._kept) > 1 and sum(kept.size for kept in self._kept.values()) > self._most:
                self._kept.popitem(last=False)

    def drop(self, scope: str) -> None:
        with self._lock:
            self._kept.pop(scope, None)

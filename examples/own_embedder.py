"""An embedder of your own: three methods. This one counts letters, which is as bad as it sounds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backtalk import Backtalk


class Letters:
    """One dimension for each letter."""

    name = "example/letters"
    dimension = 26

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            for letter in text.lower():
                if "a" <= letter <= "z":
                    vectors[row, ord(letter) - ord("a")] += 1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def token_ends(self, text: str) -> list[int]:
        return [at for at in range(1, len(text) + 1) if at == len(text) or text[at].isspace()]


app = Backtalk(embedder=Letters())

"""The embedder that is always there."""

import subprocess
import sys

import numpy as np
import pytest

from backtalk.search.registry import embedder
from backtalk.search.wordllama import WordLlama


@pytest.fixture(scope="module")
def llama() -> WordLlama:
    return WordLlama()


def test_vectors_have_length_1_and_mean_something(llama: WordLlama) -> None:
    cat, kitten, bank = llama.embed(["a cat sleeps", "a kitten naps", "the bank raised its interest rates"])
    assert cat.dtype == np.float32
    assert cat.shape == (llama.dimension,)
    assert np.allclose(np.linalg.norm([cat, kitten, bank], axis=1), 1, atol=1e-5)
    assert cat @ kitten > cat @ bank


def test_odd_texts(llama: WordLlama) -> None:
    vectors = llama.embed(["", "\ud800", "\0", "🦙", "x" * 200_000])
    assert not vectors[0].any()
    assert np.isfinite(vectors).all()
    assert llama.embed([]).shape == (0, llama.dimension)


def test_a_text_has_the_same_vector_alone_and_in_company(llama: WordLlama) -> None:
    texts = [f"text number {n} " * (n % 7 + 1) for n in range(600)]
    assert np.array_equal(llama.embed(texts)[599], llama.embed(texts[599:])[0])


def test_tokens(llama: WordLlama) -> None:
    text = "Hello, 世界 🦙!"
    ends = llama.token_ends(text)
    assert llama.count_tokens([text, ""]) == [len(ends), 0]
    assert ends == sorted(ends)
    assert ends[-1] == len(text)


def test_known_by_name() -> None:
    assert embedder().name == "wordllama-l2-supercat-256"
    with pytest.raises(ValueError, match="Unknown embedder 'none'"):
        embedder("none")


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys; from backtalk.retrieval import service, routes; service.default_embedder();"
        "print([name for name in ('numpy', 'tokenizers', 'wordllama', 'pypdfium2') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_wheels_own_code_is_never_run(llama: WordLlama) -> None:
    code = (
        "import sys; from backtalk.search.registry import embedder; embedder().embed(['x']);"
        "print([name for name in sys.modules if name.split('.')[0] == 'wordllama'])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"

"""What the full-text index sees, run through the real FTS5 tokenizer."""

import sqlite3

import pytest

from backtalk.search.words import MOST_TERMS, TOKENIZER, indexable, match


def found(text: str, query: str) -> bool:
    expression = match(query)
    if expression is None:
        return False
    with sqlite3.connect(":memory:") as connection:
        connection.execute(f'CREATE VIRTUAL TABLE words USING fts5(body, tokenize="{TOKENIZER}")')
        connection.execute("INSERT INTO words VALUES (?)", (indexable(text),))
        hits = connection.execute("SELECT 1 FROM words WHERE words MATCH ?", (expression,)).fetchall()
    connection.close()
    return bool(hits)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("The Panthers defense", "PANTHER defended?"),
        ("Café de l'Été", "ete cafe"),
        ("e\u0301tude", "étude"),
        ("snake_case_name", "case"),
        ("state-of-the-art", "art"),
        ("6½ sacks", "6½"),
        ("The Who played", "the who"),
        ("黑豹队的防守", "豹队"),
        ("黑豹队的防守", "守"),
        ("黑豹队的防守", "黑"),
        ("在NFL联赛中排名", "NFL"),
        ("在NFL联赛中排名", "nfl联赛"),
        ("カタカナとひらがな", "ひらがな"),
        ("서울특별시", "특별"),
        ("ภาษาไทยง่าย", "ไทย"),
        ("हिन्दी भाषा", "हिन्दी"),
        ("𠮷野家", "野家"),
        ("Straße", "straße"),
        ("a\0b secret", "secret"),
    ],
)
def test_finds(text: str, query: str) -> None:
    assert found(text, query)


@pytest.mark.parametrize(
    ("text", "query"),
    [("黑豹队", "豹黑"), ("हिन्दी", "हम"), ("ภาษา", "ไทย"), ("cat", "dog"), ("the cat", "the dog"), ("cat", "…?!")],
)
def test_does_not_find(text: str, query: str) -> None:
    assert not found(text, query)


@pytest.mark.parametrize(
    "query",
    [
        '"', '""', "'", "a AND", "NOT", "NEAR(a b)", "body : x", "*", "a*", "^a", "a OR OR b", "(", ")", "-x", "+", "{a b}:c",
        '" OR body:"', "x\0y", "\ud800 lone", ";DROP TABLE words", "col:", "a" * 100_000, "“quoted”", "",
    ],
)  # fmt: skip
def test_nothing_is_a_syntax_error(query: str) -> None:
    found("some text", query.encode("utf-8", "replace").decode())


def test_operators_are_words() -> None:
    assert found("this and that or not near", "NEAR")
    assert found("a pear tree", "zebra AND pear")
    assert not found("a pear tree", "zebra NOT apple")


def test_many_terms_are_cut_not_refused() -> None:
    query = " ".join(f"word{n}" for n in range(5000))
    assert found("word7", query)
    assert (match(query) or "").count(" OR ") == MOST_TERMS - 1


def test_stopwords_count_only_when_nothing_else_is_there() -> None:
    assert match("What is the capital of France?") == '"capital" OR "France"'
    assert match("to be or not to be") == '"to" OR "be" OR "or" OR "not"'
    assert match("?!") is None

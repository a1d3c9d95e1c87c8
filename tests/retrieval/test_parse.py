"""Real files through the real parsing children."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from fpdf import FPDF

from backtalk.retrieval.formats import Unreadable
from backtalk.retrieval.parse import Parser
from support import lacking


@pytest_asyncio.fixture
async def parser() -> AsyncIterator[Parser]:
    made = Parser()
    yield made
    await made.close()


def pdf(*pages: str, password: str | None = None) -> bytes:
    made = FPDF()
    made.set_font("helvetica", size=12)
    for text in pages:
        made.add_page()
        made.multi_cell(0, 8, text)
    if password:
        made.set_encryption(owner_password=password, user_password=password)
    return bytes(made.output())


PAGE = """<!DOCTYPE html><html><head><title>Sea &amp; sky</title><style>p {color: red}</style>
<script>alert("never seen")</script></head><body><!-- a comment --><h1>Whales</h1>
<p>Blue   whales
eat <b>krill</b>.</p><ul><li>one<li>two</ul><table><tr><td>a</td><td>b</td></tr></table>
<svg><text>drawn</text></svg><pre>x  =  1
y</pre><p>Un&#8203;closed &lt;tag&gt;"""


async def parse(parser: Parser, folder: Path, name: str, data: bytes) -> str:
    path = folder / "blob"
    path.write_bytes(data)
    return await parser.parse(path, name)


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.txt", b"plain\r\ntext\rhere", "plain\ntext\nhere"),
        ("a.md", "# Überschrift\n\n*kursiv*".encode(), "# Überschrift\n\n*kursiv*"),
        ("bom.txt", b"\xef\xbb\xbfwith a mark", "with a mark"),
        ("wide.txt", "breit – 宽".encode("utf-16"), "breit – 宽"),
        ("wider.txt", "breiter".encode("utf-32"), "breiter"),
        ("old.txt", "Müller – “quoted”".encode("cp1252"), "Müller – “quoted”"),
        ("controls.txt", b"a\x01b\x1b[31mc\x7f", "ab[31mc"),
        ("page\x0cbreak.txt", b"one\x0ctwo", "one\ntwo"),
        ("noname", b"no ending", "no ending"),
        ("data.json", b'{"a": 1}', '{"a": 1}'),
        ("main.py", b"print('hi')\n", "print('hi')"),
        ("MZ.txt", b"MZ is how this text begins", "MZ is how this text begins"),
        ("on-pdf.md", b"A file begins with %PDF-1.7 then", "A file begins with %PDF-1.7 then"),
        (
            "page.html",
            PAGE.encode(),
            "Sea & sky\n\nWhales\n\nBlue whales eat krill.\n\none\ntwo\n\na b\n\nx  =  1\ny\n\nUn\u200bclosed <tag>",
        ),
        ("unnamed", b"<html><body><p>sniffed", "sniffed"),
        ("gbk.htm", '<meta charset="gbk"><p>中文网页'.encode("gbk"), "中文网页"),
        ("nonsense.htm", b'<meta charset="no-such"><p>caf\xe9', "café"),
    ],
)
async def test_texts(parser: Parser, tmp_path: Path, name: str, data: bytes, text: str) -> None:
    assert await parse(parser, tmp_path, name, data) == text


async def test_pdfs(parser: Parser, tmp_path: Path) -> None:
    text = await parse(parser, tmp_path, "a.pdf", pdf("Penguins swim.", "Lions sleep."))
    assert text == "Penguins swim.\n\nLions sleep."
    assert await parse(parser, tmp_path, "mislabelled.txt", pdf("Still a PDF.")) == "Still a PDF."


@pytest.mark.parametrize(
    ("name", "data", "code", "words"),
    [
        ("a.pdf", pdf("secret", password="x"), "invalid_file", "encrypted"),
        ("a.pdf", pdf("text")[:300], "invalid_file", "damaged"),
        ("a.pdf", b"%PDF-1.7\n" + b"junk" * 100, "invalid_file", "damaged"),
        ("a.pdf", b"just text", "invalid_file", "holds no PDF"),
        ("a.pdf", pdf(""), "invalid_file", "has no text"),
        ("a.txt", b" \n\t\r\n", "invalid_file", "no text"),
        ("a.html", b"<html><script>1</script></html>", "invalid_file", "no text"),
        ("a.docx", b"PK\x03\x04\x14\0\x06\0" + bytes(200), "unsupported_file", "Office"),
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "unsupported_file", "image"),
        ("a.rtf", b"{\\rtf1\\ansi hello}", "unsupported_file", "rich text"),
        ("a.txt", bytes(range(256)) * 4, "unsupported_file", "binary"),
        ("a.bin", b"\x01\x02\x03\xff\xfe\xf1" * 50, "unsupported_file", "binary"),
    ],
)
async def test_what_cannot_be_read_says_why(
    parser: Parser, tmp_path: Path, name: str, data: bytes, code: str, words: str
) -> None:
    with pytest.raises(Unreadable, match=words) as error:
        await parse(parser, tmp_path, name, data)
    assert error.value.code == code
    assert await parse(parser, tmp_path, "next.txt", b"still fit") == "still fit"


async def test_a_missing_file(parser: Parser, tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="deleted"):
        await parser.parse(tmp_path / "none", "none.txt")


async def test_one_child_reads_many_files(parser: Parser, tmp_path: Path) -> None:
    texts = [await parse(parser, tmp_path, f"{n}.txt", f"file {n}".encode()) for n in range(300)]
    assert texts == [f"file {n}" for n in range(300)]
    assert len(parser._idle) == 1


async def test_several_at_once(parser: Parser, tmp_path: Path) -> None:
    paths = [tmp_path / str(n) for n in range(40)]
    for n, path in enumerate(paths):
        path.write_text(f"file {n} " * (n * 1000 + 1))
    texts = await asyncio.gather(*(parser.parse(path, "a.txt") for path in paths))
    assert [text.split()[1] for text in texts] == [str(n) for n in range(40)]
    assert len(parser._idle) == 2


async def test_a_killed_child_is_replaced(parser: Parser, tmp_path: Path) -> None:
    await parse(parser, tmp_path, "a.txt", b"first")
    os.kill(parser._idle[0]._process.pid, signal.SIGKILL)
    assert await parse(parser, tmp_path, "a.txt", b"second") == "second"


async def test_a_cancelled_parse_takes_its_child_along(parser: Parser, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)  # a reader waits for a writer that never comes
    task = asyncio.create_task(parser.parse(fifo, "a.txt"))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert parser._idle == []
    assert await parse(parser, tmp_path, "a.txt", b"next") == "next"


async def test_wall_time_is_limited(tmp_path: Path) -> None:
    parser = Parser(seconds=0.5)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(Unreadable, match=r"more than 0\.5 seconds"):
        await parser.parse(fifo, "a.txt")
    assert parser._idle == []
    await parser.close()


async def test_processor_time_is_limited(tmp_path: Path) -> None:
    parser = Parser(cpu_seconds=0)
    slow = tmp_path / "slow.html"
    slow.write_bytes(b"<p>a" * 16_000_000)
    with pytest.raises(Unreadable, match="more than 0 seconds"):
        await parser.parse(slow, "slow.html")
    await parser.close()


async def test_memory_is_limited(tmp_path: Path) -> None:
    if sys.platform != "linux":
        lacking("this system does not limit the memory of a process")
    parser = Parser(memory=200 * 2**20)
    wide = tmp_path / "wide.txt"
    wide.write_bytes("𠮷a".encode() * 10_000_000)
    with pytest.raises(Unreadable, match="memory") as error:
        await parser.parse(wide, "wide.txt")
    assert error.value.code == "invalid_file"
    assert await parse(parser, tmp_path, "a.txt", b"next") == "next"
    await parser.close()


async def test_size_is_limited(parser: Parser, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(Unreadable, match="split it"):
        await parser.parse(big, "big.txt")
    big.write_bytes(b"word " * 4_100_000)
    with pytest.raises(Unreadable, match="split it"):
        await parser.parse(big, "big.txt")


async def test_children_end_with_their_parser(tmp_path: Path) -> None:
    parser = Parser()
    await parse(parser, tmp_path, "a.txt", b"x")
    pid = parser._idle[0]._process.pid
    await parser.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_children_know_no_secrets(parser: Parser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    await parse(parser, tmp_path, "a.txt", b"x")
    environ = Path(f"/proc/{parser._idle[0]._process.pid}/environ")
    if environ.exists():
        assert b"canary" not in environ.read_bytes()

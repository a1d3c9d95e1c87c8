"""Files as text: plain text in its encodings, Markdown, HTML, PDF.

Runs in the parsing child, on files that anyone may have made: it imports nothing heavy, and PDFium only for a PDF.
"""

import codecs
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

MOST_BYTES = 64 * 2**20
MOST_CHARACTERS = 20_000_000
_SNIFF = 4096

_BINARY = {
    b"PK\x03\x04": "a ZIP archive or an Office document",
    b"\xd0\xcf\x11\xe0": "an old Office document",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"GIF8": "an image",
    b"RIFF": "an image, sound or film",
    b"\x1f\x8b": "a compressed file",
    b"7z\xbc\xaf": "a compressed file",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"SQLite format 3\0": "a database",
    b"{\\rtf": "a rich text document",
}
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HTML_NAMES = {".html", ".htm", ".xhtml"}
_HTML_START = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.{0,2000}?-->\s*)?<(?:!doctype\s+html|html)\b", re.I | re.S)
_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?([\w.:-]{2,40})", re.I)
_CONTROLS = re.compile("[\0-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")
_BREAKS = re.compile("\r\n?|[\x0c\x85\u2028\u2029]")


class Unreadable(Exception):
    """The file has no text for us. `code` is OpenAI's: `unsupported_file` or `invalid_file`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def read(path: Path, filename: str) -> str:
    """The text of a file: valid Unicode, line breaks as newlines, no control characters. Raises Unreadable."""
    with path.open("rb") as file:
        start = file.read(_SNIFF)
    text = _clean(_read(path, Path(filename).suffix.lower(), start))
    if not text:
        raise Unreadable("invalid_file", "There is no text in this file.")
    if len(text) > MOST_CHARACTERS:
        raise _too_long()
    return text


def _read(path: Path, suffix: str, start: bytes) -> str:
    if b"%PDF-" in start[: 1024 if suffix == ".pdf" else 8]:
        return "\n\n".join(_pdf_pages(path))
    if suffix == ".pdf":
        raise Unreadable("invalid_file", "This file is named .pdf but holds no PDF.")
    for magic, what in _BINARY.items():
        if start.startswith(magic) and _is_binary(start, what):
            raise _unsupported(what)
    if path.stat().st_size > MOST_BYTES:
        raise _too_long()
    data = path.read_bytes()
    if suffix in _HTML_NAMES or _HTML_START.match(start):
        return html_text(_decode(data, _CHARSET.search(start)))
    return _decode(data)


def _is_binary(start: bytes, what: str) -> bool:
    """A text may begin with the letters "MZ" or "RIFF"; then it has no NUL."""
    return what == "a rich text document" or b"\0" in start or not start.isascii()


def _decode(data: bytes, charset: re.Match[bytes] | None = None) -> str:
    """Text in the encoding that its mark or its HTML names; else UTF-8; else, when it looks like text, cp1252."""
    for mark, name in _BOMS:
        if data.startswith(mark):
            return data.decode(name, "replace")
    if b"\0" in data:
        raise _unsupported("a binary file")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    if charset is not None:
        try:
            return data.decode(charset[1].decode(), "replace")
        except LookupError:
            pass
    if sum(byte < 32 and byte not in b"\t\n\r\x0c\x1b" for byte in data[:_SNIFF]) > len(data[:_SNIFF]) // 20:
        raise _unsupported("a binary file")
    return data.decode("cp1252", "replace")


def _clean(text: str) -> str:
    text = _CONTROLS.sub("", _BREAKS.sub("\n", text))
    return text.encode("utf-8", "replace").decode().strip()


def _pdf_pages(path: Path) -> Iterator[str]:
    import pypdfium2  # noqa: PLC0415  # lazy: only for a PDF

    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise Unreadable(
                "invalid_file", "This PDF is encrypted: remove its password and upload it again."
            ) from None
        raise Unreadable("invalid_file", "This PDF is damaged: it cannot be opened.") from None
    length, empty = 0, True
    for page in document:
        text = page.get_textpage().get_text_bounded()
        page.close()
        length += len(text)
        if length > MOST_CHARACTERS:
            raise _too_long()
        empty = empty and not text.strip()
        yield text
    if empty:
        raise Unreadable("invalid_file", "This PDF has no text: its pages may be scanned images. Run OCR on it first.")


def html_text(source: str) -> str:
    """What a page says, block by block, without scripts and styles."""
    reader = _Reader()
    reader.feed(source)
    reader.close()
    return reader.text()


_UNSEEN = {"script", "style", "template", "noscript", "svg", "iframe", "object", "canvas"}
_BLOCKS = {
    "address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "dialog", "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "head", "header", "hr",
    "html", "legend", "main", "menu", "nav", "ol", "option", "p", "pre", "section", "select", "summary", "table",
    "tbody", "tfoot", "thead", "title", "ul",
}  # fmt: skip
_LINES = {"br", "li", "tr"}
_SPACES = re.compile(r"[ \t\n\r\f]+")


class _Reader(HTMLParser):
    """Collects text; block elements make paragraphs, lines make lines, cells are set apart."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._unseen = ""
        self._depth = 0
        self._verbatim = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._unseen:
            self._depth += tag == self._unseen
        elif tag in _UNSEEN:
            self._unseen, self._depth = tag, 1
        else:
            self._verbatim += tag == "pre"
            self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._unseen:
            self._depth -= tag == self._unseen
            self._unseen = self._unseen if self._depth else ""
        else:
            self._verbatim -= tag == "pre" and self._verbatim > 0
            self._break(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._unseen:
            self._break(tag)

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self._parts.append(data if self._verbatim else self._joined(_SPACES.sub(" ", data)))

    def text(self) -> str:
        lines = (line.rstrip(" ") for line in "".join(self._parts).split("\n"))
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))

    def _joined(self, text: str) -> str:
        """`text` without a space at its beginning where one stands already."""
        before = self._parts[-1][-1:] if self._parts else "\n"
        return text.removeprefix(" ") if before in (" ", "\n") else text

    def _break(self, tag: str) -> None:
        if tag in _BLOCKS:
            self._parts.append("\n\n")
        elif tag in _LINES:
            self._parts.append("\n")
        elif tag in ("td", "th"):
            self._parts.append(self._joined(" "))


def _unsupported(what: str) -> Unreadable:
    return Unreadable(
        "unsupported_file", f"This is {what}, which is not supported: use plain text, Markdown, HTML or PDF."
    )


def _too_long() -> Unreadable:
    return Unreadable("invalid_file", f"There are more than {MOST_CHARACTERS:,} characters in this file: split it.")

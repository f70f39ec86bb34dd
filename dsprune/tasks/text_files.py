"""Text files, decoded: UTF-8, or UTF-16 and UTF-32 with a byte order mark; compressed with gzip or not."""

import codecs
import gzip
from pathlib import Path

__all__ = ["lines_of", "read_text"]

ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Encodings by the bytes that a file begins with."""


def read_text(path: Path) -> str:
    """Return the text of a file, with line ends as they are.

    Raises:
        ValueError: it is not text in one of the encodings above.
    """
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    encoding = next((name for mark, name in ENCODINGS if raw.startswith(mark)), "utf-8")
    text = raw.decode(encoding)
    if "\0" in text:
        raise ValueError("holds zero bytes: save it as UTF-8")
    return text


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text file, without line ends.

    Lines end with a line feed only: other characters that Unicode calls line ends are part of the text.
    """
    lines = read_text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]

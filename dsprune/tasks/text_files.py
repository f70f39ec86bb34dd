"""Text files: encodings, compression and line ends."""

import codecs
import gzip
from pathlib import Path

from dsprune.utils.text import first_line

__all__ = ["COMPRESSED", "lines_of", "read_text"]

ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is a prefix of it
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Encodings by the first bytes of a file."""

COMPRESSED = ".gz"
MOST_GROWTH = 200
"""Largest factor of decompression; that of texts is 3 to 20."""
SMALL = 2**24
"""Number of bytes that are always decompressed."""

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def read_text(path: Path) -> str:
    """Return the text of a file, with unchanged line ends.

    Raises:
        ValueError: the file is not text in one of the encodings above.
    """
    raw = _decompressed(path) if path.suffix.lower() == COMPRESSED else path.read_bytes()
    if raw.startswith(LFS_POINTER):
        raise ValueError("a pointer of Git LFS, not the file itself: run git lfs pull")
    encoding = next((name for mark, name in ENCODINGS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{first_line(error)}: save it as UTF-8") from error
    if "\0" in text:
        raise ValueError("holds zero bytes: save it as UTF-8")
    return text


def _decompressed(path: Path) -> bytes:
    """Return the content of a gzip file, unless it expands so much that it could fill the memory."""
    most = max(MOST_GROWTH * path.stat().st_size, SMALL)
    with gzip.open(path) as file:
        raw = file.read(most + 1)
    if len(raw) > most:
        raise ValueError(
            f"decompresses to more than {MOST_GROWTH} times its size: decompress it first if that is intended"
        )
    return raw


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text file, without line ends.

    Only a line feed ends a line: Unicode's other line ends are part of the text.
    """
    lines = read_text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]

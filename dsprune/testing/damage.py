"""Damage files as disks and interrupted copies do."""

from pathlib import Path

__all__ = ["flip_a_bit", "truncate"]


def flip_a_bit(path: Path, place: int = -1) -> None:
    """Change one bit of the byte at `place`, by default of the last one."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """Remove the last byte."""
    path.write_bytes(path.read_bytes()[:-1])

"""The names of tags, and the file `latest`, which names the newest one."""

from pathlib import Path
from typing import Any

from dsprune.errors import UserError
from dsprune.utils.files import replace_text
from dsprune.utils.records import read_bytes
from dsprune.utils.text import control_character

__all__ = ["LATEST", "latest_tag", "tag_name", "write_latest"]

LATEST = "latest"


def tag_name(tag: Any) -> str:
    """Return the name of a tag's folder, of any value that DeepSpeed takes for a tag.

    Raises:
        UserError: the name leads out of the folder of the tags.
    """
    name = str(tag)
    if not _stays_inside(name):
        raise UserError(
            f"tag: value {name!r}: must be the name of a folder beside {LATEST}, not a path out of it"
        )
    return name


def latest_tag(checkpoints: Path) -> str | None:
    """Return the name in `latest`; None if there is no such file.

    Raises:
        UserError: it cannot be read, or holds no name of a tag.
    """
    path = checkpoints / LATEST
    if not path.exists():
        return None
    way_out = "write the name of a complete checkpoint into it, or remove it"
    name = read_bytes(path, way_out).decode("utf-8", "replace").strip()
    if not _stays_inside(name) or control_character(name) is not None:
        raise UserError(f"{path}: value {name[:100]!r}: not the name of a folder beside it: {way_out}")
    return name


def write_latest(folder: Path) -> None:
    """Make a tag the latest."""
    replace_text(folder.parent / LATEST, folder.name)


def _stays_inside(name: str) -> bool:
    return name not in ("", ".", "..") and not {"/", "\0"} & {*name}

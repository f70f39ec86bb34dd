"""Pictures that commands leave behind."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from dsprune.errors import UserError
from dsprune.pure.files import replace_file

__all__ = ["check_figure_path", "save_figure"]

FORMATS = ("png", "svg")


def check_figure_path(path: Path) -> None:
    """Refuse what cannot be written, before time is spent on what it is to show.

    Raises:
        UserError: the file has an ending of another format, or its folder does not exist.
    """
    if path.suffix[1:] not in FORMATS:
        raise UserError(f"--plot: value {path}: must end in {' or '.join('.' + kind for kind in FORMATS)}")
    if not path.parent.is_dir():
        raise UserError(f"--plot: value {path}: make the folder {path.parent} first")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture in the format that its ending names, whole or not at all; the same one is the same bytes."""
    check_figure_path(path)
    undated = {"Date": None} if path.suffix == ".svg" else None

    def write(temporary: Path) -> None:
        with matplotlib.rc_context({"svg.hashsalt": "dsprune"}):
            figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=undated)

    replace_file(path, write)

"""The console output of a function."""

import io
from collections.abc import Callable
from typing import Any

from rich.console import Console


def printed(
    act: Callable[..., Any], *arguments: Any, width: int = 200, terminal: bool = False, **options: Any
) -> str:
    """Return what `act(*arguments, console=...)` prints, in a terminal or elsewhere."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, color_system=None)
    act(*arguments, console=console, **options)
    return file.getvalue()

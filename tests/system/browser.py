"""Render pages in a real browser without a window."""

import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

BROWSER = "chromium"
PROGRAMS = {BROWSER: "chromium"}
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--hide-scrollbars",
)


def _run(page: Path, *flags: str) -> str:
    command = [BROWSER, *FLAGS, f"--user-data-dir={page.parent / 'browser'}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def rendered(page: Path) -> str:
    """Return the document as the browser parsed it."""
    return _run(page, "--dump-dom")


def screenshot(page: Path, *, dark: bool, width: int = 1100, height: int = 1600) -> np.ndarray:
    """Return the pixels, `[height, width, 3]`, 0 to 255."""
    path = page.parent / f"{page.stem}-{'dark' if dark else 'light'}.png"
    flags = [
        f"--screenshot={path}",
        f"--window-size={width},{height}",
        *(["--force-dark-mode"] if dark else []),
    ]
    _run(page, *flags)
    return np.asarray(Image.open(path).convert("RGB"))

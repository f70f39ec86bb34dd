"""Render pages in a real browser without a window."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

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


def _run(page: Path, *flags: str, profile: str = "browser") -> str:
    command = [BROWSER, *FLAGS, f"--user-data-dir={page.parent / profile}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


# A script of the outer page measures the frames, and writes the result to the title.
FRAMES = """<body style="margin: 0">{frames}<script>
const look = frame => {{
  const inside = frame.contentDocument, right = element => element.getBoundingClientRect().right;
  const scrolls = element => /auto|scroll/.test(frame.contentWindow.getComputedStyle(element).overflowX);
  const inScroll = element => element !== inside.body && (scrolls(element) || inScroll(element.parentElement));
  const over = [...inside.querySelectorAll("body *")].filter(
    element => right(element) > {width} && element.checkVisibility({{checkOpacity: true}})
      && !inScroll(element.parentElement));
  const root = inside.documentElement;
  return [root.outerHTML, root.scrollWidth, over.map(element => element.tagName)];
}};
onload = () => {{
  document.title = encodeURIComponent(JSON.stringify([...document.querySelectorAll("iframe")].map(look)));
}};
</script></body>"""


class Shown(NamedTuple):
    """A page on a screen.

    Attributes:
        document: the document that the browser parsed.
        width: width of the page.
        over: the elements that extend beyond the screen, except those that scroll.
    """

    document: str
    width: int
    over: list[str]


def shown(pages: Sequence[Path], width: int) -> list[Shown]:
    """Return some pages on a screen of this width.

    They are in frames, because the browser's window has a minimum width, and because its start takes a second.
    """
    frames = "".join(
        f'<iframe src="{page.as_uri()}" width="{width}" height="900"></iframe>' for page in pages
    )
    outer = pages[0].with_name(f"{pages[0].stem}-{width}.html")
    outer.write_text(FRAMES.format(frames=frames, width=width))
    document = _run(outer, "--allow-file-access-from-files", "--virtual-time-budget=3000", "--dump-dom")
    title = document.partition("<title>")[2].partition("</title>")[0]
    return [Shown(*seen) for seen in json.loads(unquote(title))]


def screenshot(page: Path, *, dark: bool, width: int = 1100, height: int = 1600) -> np.ndarray:
    """Return the pixels, `[height, width, 3]`, 0 to 255."""
    path = page.parent / f"{page.stem}-{'dark' if dark else 'light'}.png"
    flags = [
        f"--screenshot={path}",
        f"--window-size={width},{height}",
        *(["--force-dark-mode"] if dark else []),
    ]
    _run(page, *flags, profile=path.stem)  # of its own: pages remember their colours
    return np.asarray(Image.open(path).convert("RGB"))

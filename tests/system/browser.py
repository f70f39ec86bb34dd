"""Render pages in a real browser without a window."""

import json
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


def _run(page: Path, *flags: str, profile: str = "browser") -> str:
    command = [BROWSER, *FLAGS, f"--user-data-dir={page.parent / profile}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def rendered(page: Path) -> str:
    """Return the document as the browser parsed it."""
    return _run(page, "--dump-dom")


PHONE = """<body style="margin: 0"><iframe id="page" src="{page}" width="{width}" height="900"></iframe><script>
page.onload = () => {{
  const inside = page.contentDocument, right = element => element.getBoundingClientRect().right;
  const scrolls = element => /auto|scroll/.test(page.contentWindow.getComputedStyle(element).overflowX);
  const inScroll = element => element !== inside.body && (scrolls(element) || inScroll(element.parentElement));
  const over = [...inside.querySelectorAll("body *")].filter(
    element => right(element) > {width} && element.checkVisibility({{checkOpacity: true}})
      && !inScroll(element.parentElement));
  document.title = JSON.stringify([inside.documentElement.scrollWidth, over.map(element => element.tagName)]);
}};
</script></body>"""


def overflow(page: Path, width: int) -> tuple[int, list[str]]:
    """Return the width that a page needs on a screen of this width, and the elements that reach beyond it.

    The page stands in a frame, because the browser's own window has a least width. What scrolls by itself is left out.
    """
    frame = page.with_name(f"{page.stem}-{width}.html")
    frame.write_text(PHONE.format(page=page.name, width=width))
    document = _run(frame, "--allow-file-access-from-files", "--virtual-time-budget=3000", "--dump-dom")
    needed, over = json.loads(document.partition("<title>")[2].partition("</title>")[0])
    return needed, over


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

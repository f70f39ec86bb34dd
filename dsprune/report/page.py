"""A report as files: the page, and its tables as Markdown and CSV."""

from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, Template

from dsprune.report.blocks import Page
from dsprune.utils.files import replace_text

__all__ = ["render", "write_page", "write_tables"]


def render(page: Page) -> str:
    """The page as HTML that needs no other file, and no network."""
    css = (files("dsprune.report") / "page.css").read_text(encoding="utf-8")
    return _template().render(page=page, css=css)


@cache
def _template() -> Template:
    source = (files("dsprune.report") / "page.html").read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)


def write_page(page: Page, path: Path) -> None:
    """Write the page, whole or not at all."""
    replace_text(path, render(page))


def write_tables(page: Page, folder: Path) -> list[Path]:
    """Write all tables into report.md, and each into a CSV file."""
    tables = list(page.tables())
    text = "\n".join([f"# {page.title}", "", page.lead, "", *(table.markdown() for table in tables)])
    paths = {folder / "report.md": f"{text}\n{page.origin}\n"}
    paths |= {folder / f"{table.name}.csv": table.csv() for table in tables}
    for path, content in paths.items():
        replace_text(path, content)
    return list(paths)

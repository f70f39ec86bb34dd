"""Pages of the documentation that are made of the code and of the README. mkdocs calls it as a hook.

pip install -e '.[docs]' && mkdocs build --strict
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import typer
from pydantic import BaseModel

import dsprune
from dsprune.commands.cli import app
from dsprune.commands.data import benchmarks_by_name, kind_fields, kinds_of_tasks
from dsprune.recipe import Recipe, shipped_recipes
from dsprune.recipe.loading import read_recipe
from dsprune.recipe.recipe import recipe_schema, section_of
from dsprune.recipe.span import Ramp
from dsprune.report.table import Table
from dsprune.tasks.source import Split
from dsprune.utils.text import summary_of

ROOT = Path(__file__).resolve().parents[1]


# ---- the recipe


def recipe_page() -> str:
    """Return the reference of all fields of a recipe, from the schema, with examples from the shipped recipes."""
    examples = dict(_examples())
    lead = "Every field, from the schema (`dsprune schema`). The examples are of shipped recipes (`dsprune recipes`)."
    parts = ["# Recipe", lead, _fields(Recipe, "Top level", "", examples)]
    for name in Recipe.model_fields:
        section = section_of(Recipe, name)
        if section is not None:
            parts.append(_fields(section, f"`{name}`", f"{name}.", examples))
    return "\n\n".join([*parts, _fields(Ramp, "A number that changes", "", {})])


def _fields(section: type[BaseModel], title: str, prefix: str, examples: Mapping[str, Any]) -> str:
    definitions = recipe_schema()["$defs"]
    own = {**definitions, "Recipe": recipe_schema()}[section.__name__]
    properties = next(one for one in [own, *own.get("anyOf", ())] if "properties" in one)["properties"]
    rows = tuple(
        (f"`{name}`", _kind(properties[name]), _meaning(field), _code(examples.get(prefix + name)))
        for name, field in section.model_fields.items()
    )
    return f"## {title}\n\n{summary_of(section)}.\n\n" + _table(("field", "type", "meaning", "example"), rows)


def _meaning(field: Any) -> str:
    text = " ".join((field.description or "").split())
    return f"**Required.** {text}" if field.is_required() else text


def _kind(schema: Mapping[str, Any]) -> str:
    """Return the type of a field in words."""
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_kind, schema["anyOf"])))
    if "$ref" in schema:
        return f"section {schema['$ref'].rpartition('/')[2]}"
    if schema.get("type") == "array" and isinstance(schema.get("items"), dict):
        return f"list of {_kind(schema['items'])}"
    return str(schema.get("type", "any"))


def _examples() -> Iterator[tuple[str, Any]]:
    """Yield fields with a value that a shipped recipe gives them; of several, the first."""
    found: dict[str, Any] = {}
    for recipe in shipped_recipes():
        for key, value in read_recipe(recipe)[1].items():
            inner = value.items() if isinstance(value, dict) else ()
            for name, one in [(key, value)] if not inner else [(f"{key}.{name}", one) for name, one in inner]:
                if one is not None:
                    found.setdefault(name, one)
    yield from found.items()


# ---- commands and tasks


def commands_page() -> str:
    """Return the reference of the commands, from the application."""
    group = typer.main.get_command(app)
    return "\n\n".join(
        ["# Commands", *(_command(name, command) for name, command in _commands(group, "dsprune"))]
    )


def _commands(group: Any, above: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield f"{above} {name}", command
        if hasattr(command, "commands"):
            yield from _commands(command, f"{above} {name}")


def _command(name: str, command: Any) -> str:
    context = command.context_class(command, info_name=name)
    params = (param for param in command.get_params(context) if param.name != "help")
    records = (param.get_help_record(context) for param in params)
    rows = tuple((f"`{usage}`", text) for usage, text in filter(None, records))
    usage = command.get_usage(context).removeprefix("Usage: ")
    table = _table(("value", "meaning"), rows) if rows else ""
    return f"## `{name}`\n\n{command.help}\n\n```text\n{' '.join(usage.split())}\n```\n\n{table}"


def tasks_page() -> str:
    """Return the kinds of tasks with their fields, and the published data sets."""
    parts = ["# Tasks and data", "`dsprune new NAME --data FILE` writes a recipe for a file of your own."]
    for name, task in kinds_of_tasks().items():
        rows = tuple((f"`task.{field}`", default, meaning) for field, default, meaning in kind_fields(task))
        parts.append(f"## `{name}`\n\n{summary_of(task)}.\n\n{_table(('field', 'default', 'meaning'), rows)}")
        fixed = tuple((f"`{one.name}`", one.holds) for one in task.columns() if one.field is None)
        if fixed:
            parts.append("The data have these columns:\n\n" + _table(("column", "holds"), fixed))
    return "\n\n".join([*parts, "## Published data sets\n\n" + _published()])


def _published() -> str:
    rows = tuple(
        (
            f"`{name}`",
            one.title,
            *(f"{one.parts[split].examples or '?'}" for split in get_args(Split)),
            one.licence,
        )
        for name, several in benchmarks_by_name().items()
        for one in several
    )
    return _table(("task", "data", *get_args(Split), "licence"), rows)


def _table(columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> str:
    lines = Table("", "", columns, rows, words=True).markdown().splitlines()[2:]
    text = "\n".join([lines[0], "|" + "---|" * len(columns), *lines[2:]])
    return re.sub(r"`[^`]*`", lambda code: code[0].replace("&lt;", "<").replace("&amp;", "&"), text)


def _code(value: Any) -> str:
    return "" if value is None else f"`{value}`"


# ---- pages of the README


def parts_of_readme() -> dict[str, str]:
    """Return the README's text by heading, links set right; the text before the first heading has the key ""."""
    text = relink((ROOT / "README.md").read_text(encoding="utf-8"))
    fence, parts, heading = False, {"": ""}, ""
    for line in text.splitlines():
        fence ^= line.startswith("```")
        found = None if fence else re.match(r"#{2,} (.*)", line)
        heading = found[1] if found else heading
        parts[heading] = parts.get(heading, "") + (f"\n## {heading}\n" if found else f"{line}\n")
    return parts


def relink(text: str) -> str:
    """Point the links of a file of the repository to pages of the documentation; drop those to other files."""
    text = re.sub(r"\]\((?:\.\./)?docs/", "](", text)
    text = re.sub(
        r"\]\((?:\.\./)?(CHANGELOG|CONTRIBUTING)\.md", lambda found: f"]({found[1].lower()}.md", text
    )
    return re.sub(r"(?<!!)\[([^\]]*)\]\((?!http|#)(?![\w-]+\.(?:md|svg))[^)]*\)", r"\1", text)


def _readme_page(title: str, *headings: str) -> Callable[[], str]:
    def page() -> str:
        parts = parts_of_readme()
        return "\n".join([f"# {title}" if title else "", *(parts[heading] for heading in headings)])

    return page


def _file_page(name: str) -> Callable[[], str]:
    return lambda: relink((ROOT / name).read_text(encoding="utf-8"))


def api_page() -> str:
    """Return the page of the public names, whose documentation mkdocstrings inserts."""
    homes = {name: f"{home}.{name}" for name, home in dsprune._HOMES.items()}
    names = (homes[name] for name in dsprune.__all__ if name in homes and name not in ("Recipe",))
    return "\n\n".join(
        ["# API", "All of it is in the package `dsprune`.", *(f"::: {name}" for name in names)]
    )


START = (
    "Install",
    "Five minutes: a file of your own",
    "Three lines of a DeepSpeed loop",
    "Two commands on a fresh machine",
)
CLUSTERS = ("On a cluster", "Stopping, resuming, resharding")
OWN = ("On your own model", "Teacher logits, computed once", "Your own method or task")

PAGES: Mapping[str, Callable[[], str]] = {
    "index.md": _readme_page("", "", "Results", "Limits"),
    "start.md": _readme_page("Getting started", *START),
    "concepts.md": _readme_page("Concepts", "How it works", "Words", "A guided tour in five files"),
    "own.md": _readme_page("Your own model and teacher", *OWN),
    "clusters.md": _readme_page("Clusters", *CLUSTERS),
    "reference/recipe.md": recipe_page,
    "reference/commands.md": commands_page,
    "reference/tasks.md": tasks_page,
    "reference/api.md": api_page,
    "contributing.md": _file_page("CONTRIBUTING.md"),
    "changelog.md": _file_page("CHANGELOG.md"),
}
"""The generated pages by their path."""


# ---- hooks of mkdocs


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File  # in the extra `docs` only

    for path, page in PAGES.items():
        files.append(File.generated(config, path, content=page()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Set right the links of the pages that lie in docs/."""
    return relink(markdown)

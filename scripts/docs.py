"""Generate pages of the documentation from the code and the README. mkdocs calls this file as a hook.

pip install -e '.[docs]' && mkdocs build --strict
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args

import typer
from pydantic import BaseModel

import dsprune
from dsprune.commands.cli import app
from dsprune.commands.data import benchmarks_by_name, kind_fields, kinds_of_tasks
from dsprune.recipe import Recipe, shipped_recipes
from dsprune.recipe.comments import section_of
from dsprune.recipe.loading import read_recipe
from dsprune.recipe.recipe import recipe_schema
from dsprune.recipe.span import Ramp
from dsprune.report.table import Table
from dsprune.tasks.source import Split
from dsprune.utils.text import summary_of

ROOT = Path(__file__).resolve().parents[1]


# ---- the recipe

EXAMPLES: Mapping[str, Any] = {
    "name": "reviews-90",
    "model.tokenizer": "google-bert/bert-base-uncased",
    "model.layers": [0, 2, 4, 6, 8, 10],
    "model.vocabulary": "used",
    "model.new_head": True,
    "model.resize_embeddings": True,
    "task.name": "text-classification",
    "task.dataset": "stanfordnlp/imdb",
    "task.config": "plain_text",
    "task.folder": "data/glue/SST-2",
    "task.text_pair": "hypothesis",
    "task.thresholds": [50.0, 60.0],
    "task.decoder": "gts",
    "task.decoder_size": 384,
    "task.pairs": ["en-de", "de-en"],
    "task.max_validation": 1000,
    "pruning.window": 100,
    "pruning.drop": 0.3,
    "pruning.damping": 1e-7,
    "pruning.first_method": "snip",
    "pruning.recomputations": 4,
    "pruning.pattern": "4x1",
    "pruning.only": ["*.attention.*.weight"],
    "pruning.sparsities": {"*.layer.0.*": 0.5},
    "learning_rate.rewind_at": ["50 %", "75 %"],
    "learning_rate.decay_factor": 0.1,
    "learning_rate.hold": "1 epochs",
    "distillation.temperatures": [1.0, 4.0],
    "checkpoints.best": True,
    "tracking.wandb": True,
    "tracking.group": "three seeds",
    "tracking.tags": ["trial"],
    "tracking.run": "reviews at 90 %",
    "first": 2.0,
    "final": 1.0,
}
"""Examples of fields that no shipped recipe sets to a short value."""


def recipe_page() -> str:
    """Return the reference of all fields of a recipe, from the schema, with examples from the shipped recipes."""
    lead = (
        "Every field, from the schema (`dsprune schema`), with an example of a value. For examples of whole files see "
        "the shipped recipes (`dsprune recipes`)."
    )
    parts = ["# Recipe", lead, _fields(Recipe, "Top level", "")]
    for name in Recipe.model_fields:
        section = section_of(Recipe, name)
        if section is not None:
            parts.append(_fields(section, f"`{name}`", f"{name}."))
            parts += [_fields_of_tasks()] if name == "task" else []
    return "\n\n".join([*parts, _fields(Ramp, "A number that changes", "")])


def _fields(section: type[BaseModel], title: str, prefix: str) -> str:
    definitions = recipe_schema()["$defs"]
    own = {**definitions, "Recipe": recipe_schema()}[section.__name__]
    properties = next(one for one in [own, *own.get("anyOf", ())] if "properties" in one)["properties"]
    rows = tuple(
        (
            f"`{name}`",
            _kind(properties[name]),
            *_meaning(field),
            _example(section, name, prefix, properties[name]),
        )
        for name, field in section.model_fields.items()
    )
    columns = ("field", "type", "default", "meaning", "example")
    return f"## {title}\n\n{summary_of(section)}.\n\n" + _table(columns, rows)


def _meaning(field: Any) -> tuple[str, str]:
    """Return the default and the meaning of a field."""
    text, _, default = " ".join((field.description or "").split()).partition(" Default: ")
    return default.removesuffix(".") or ("required" if field.is_required() else "the defaults below"), text


def _kind(schema: Mapping[str, Any]) -> str:
    """Describe the type of a field."""
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_kind, schema["anyOf"])))
    if "$ref" in schema:
        return "number or section" if schema["$ref"].endswith("/Ramp") else "section"
    if schema.get("type") == "array" and isinstance(schema.get("items"), dict):
        return f"list of {_kind(schema['items'])}"
    return {"array": "two numbers", "object": "numbers by pattern"}.get(schema["type"], schema["type"])


def _example(section: type[BaseModel], name: str, prefix: str, schema: Mapping[str, Any]) -> str:
    """Return an example of a field: from the list above, from a shipped recipe, or the default."""
    if section_of(section, name) not in (None, Ramp):
        return f"[below](#{name})"
    values = {**_shipped_values(), **EXAMPLES}
    return _code(values.get(prefix + name, schema.get("default")))


@cache
def _shipped_values() -> dict[str, Any]:
    """Return the fields to which a shipped recipe gives a value; of several values, the first."""
    found: dict[str, Any] = {}
    for recipe in shipped_recipes():
        for key, value in read_recipe(recipe)[1].items():
            inner = value.items() if isinstance(value, dict) else ()
            for name, one in [(key, value)] if not inner else [(f"{key}.{name}", one) for name, one in inner]:
                if one is not None:
                    found.setdefault(name, one)
    return found


def _fields_of_tasks() -> str:
    """Return the fields that each kind of task needs, and the others that it reads."""
    rows = []
    for name, task in kinds_of_tasks().items():
        fields: dict[bool, list[str]] = {True: [], False: []}
        for field, default, _ in kind_fields(task):
            fields[default == "needed"].append(f"`{field}`")
        rows.append((f"[`{name}`](tasks.md#{name})", ", ".join(fields[True]), ", ".join(fields[False])))
    lead = "A published data set (`dsprune tasks`) brings its data. All tasks read `max_train` and `max_validation`."
    table = _table(("task", "needs", "also reads"), tuple(rows))
    return f"### Fields of each kind of task\n\n{lead}\n\n{table}"


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
    text = value if isinstance(value, str) else json.dumps(value)
    return "" if value is None else f"`{text}`"


# ---- pages of the README


def parts_of_readme() -> dict[str, str]:
    """Return the README's text by heading, with corrected links; the text before the first heading has the key ""."""
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


def notebook_page() -> str:
    """Return the notebook with its outputs."""
    cells = json.loads((ROOT / "examples" / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    where = "This page is the notebook `examples/notebook.ipynb`, with its outputs on a CPU."
    title, *parts = [
        "".join(cell["source"]) if cell["cell_type"] == "markdown" else _cell(cell) for cell in cells
    ]
    return "\n\n".join([title, where, *parts])


def _cell(cell: Mapping[str, Any]) -> str:
    """Return a cell of code with its output."""
    source = "".join(cell["source"])
    language = "bash" if source.startswith("%%bash") else "python"
    parts = [f"```{language}\n{source.removeprefix('%%bash').strip()}\n```"]
    for output in cell["outputs"]:
        if picture := output.get("data", {}).get("image/png"):
            parts.append(f"![output](data:image/png;base64,{''.join(picture.split())})")
        elif output.get("name") == "stdout":
            parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
    return "\n\n".join(parts)


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
    "notebook.md": notebook_page,
    "architecture.md": _readme_page("Architecture", "How it works", "A guided tour in five files"),
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
    """Correct the links of the pages in docs/."""
    return relink(markdown)

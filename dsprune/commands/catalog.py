"""`dsprune recipes`, `methods` and `suites`: list the contents of the registries and the shipped files."""

import re
import sys

from rich.console import Console

from dsprune.commands.suite.definition import load_suite, shipped_suites
from dsprune.recipe import load_recipe, shipped_recipes
from dsprune.recipe.loading import recipe_text
from dsprune.recipe.pattern import PATTERNS
from dsprune.recipe.timing import Pruning
from dsprune.registry import CURVES, METHODS, SCOPES
from dsprune.report.table import Table, show
from dsprune.utils.console import say
from dsprune.utils.text import MISSING, percent, summary_of

__all__ = ["list_methods", "list_recipes", "list_suites", "show_recipe"]


def list_recipes(console: Console) -> None:
    """Print a line for each shipped recipe: its task, its target, and the source of its settings."""
    rows = []
    for name in shipped_recipes():
        recipe, text = load_recipe(name), recipe_text(name)[1].decode()
        target = percent(recipe.pruning.sparsity, 0) if recipe.pruning else "dense"
        rows.append((name, recipe.task.name if recipe.task else MISSING, target, source_of(text)))
    columns = ("recipe", "task", "target", "source")
    show(Table("recipes", "Recipes", columns, tuple(rows), words=True), console)
    say(console, "to print one: dsprune recipes show NAME; to write your own: dsprune new NAME --from RECIPE")


def source_of(text: str) -> str:
    r"""Return the source of a recipe's settings: the first words of its comment `# Source: ...`, or dsprune.

    Examples:
        >>> source_of("# A schedule.\n#\n# Source: Liu et al., a paper.\n")
        'Liu et al.'
    """
    found = re.search(r"^# Source[^:]*: ([^,/]+)", text, re.MULTILINE)
    return " ".join(found[1].replace("#", "").split()) if found else "dsprune"


def show_recipe(name: str) -> None:
    """Print the text of a recipe, with its comments.

    Raises:
        UserError: the recipe does not exist.
    """
    sys.stdout.write(recipe_text(name)[1].decode())


def list_methods(console: Console) -> None:
    """Print a line for each pruning method, the names of the curves and scopes, and the patterns."""
    default = Pruning.model_fields["method"].default
    rows = tuple(
        (f"{name} (default)" if name == default else name, summary_of(METHODS.get(name))) for name in METHODS
    )
    show(Table("methods", "Pruning methods", ("pruning.method", "what"), rows, words=True), console)
    for registry in (CURVES, SCOPES):
        say(console, f"{registry.field}: {', '.join(registry)}")
    say(console, f"pruning.pattern: {PATTERNS}")


def list_suites(console: Console) -> None:
    """Print a line for each shipped suite."""
    rows = tuple(_suite_row(name) for name in shipped_suites())
    columns = ("suite", "title", "recipes", "methods", "targets")
    show(Table("suites", "Suites", columns, rows, words=True), console)
    say(console, "to print the commands of one: dsprune suite NAME [RECIPE] --dry-run")


def _suite_row(name: str) -> tuple[str, ...]:
    suite = load_suite(name)
    recipes = f"{len(suite.recipes)}" if suite.recipes else "yours"
    targets = [f"{sparsity:g}" for sparsity in suite.sparsity]
    shown = ", ".join(targets) if len(targets) < 4 else f"{targets[0]} to {targets[-1]}"
    return name, suite.title, recipes, str(len(suite.methods)), shown

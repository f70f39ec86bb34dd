"""Commands that list recipes, tasks, methods and suites, and write a recipe."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dsprune.commands.cli.main import Overrides, RecipeArgument, app
from dsprune.utils.console import starting

__all__ = ["methods", "new", "recipes", "show", "suites", "tasks"]

_recipes = typer.Typer(pretty_exceptions_enable=False)
app.add_typer(_recipes, name="recipes")


@_recipes.callback(invoke_without_command=True)
def recipes(context: typer.Context) -> None:
    """List the shipped recipes, or show one."""
    if context.invoked_subcommand is None:
        from dsprune.commands.catalog import list_recipes

        list_recipes(Console())


@_recipes.command()
def show(recipe: RecipeArgument) -> None:
    """Print a recipe as it is written, with its comments."""
    from dsprune.commands.catalog import show_recipe

    show_recipe(recipe)


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the recipe, written to NAME.yaml.")],
    overrides: Overrides = None,
    source: Annotated[str, typer.Option("--from", help="The recipe to start from.")] = "glue-90",
    data: Annotated[
        Path | None, typer.Option(help="A file of your own: csv, tsv, jsonl, parquet, txt.")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="A file to validate on. Default: a tenth of the data's rows.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A Hugging Face model folder or hub name.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Kind of task. Default: chosen by the columns of the data.")
    ] = None,
) -> None:
    """Write a commented recipe of your own, with the columns and labels of your data."""
    with starting():
        from dsprune.commands.new.new import NewRecipe
        from dsprune.commands.new.new import new as write

    write(name, NewRecipe(source, tuple(overrides or ()), data, validation, model, task), Console())


@app.command()
def tasks() -> None:
    """List the kinds of tasks and the published data sets."""
    with starting():
        from dsprune.commands.data import list_tasks

    list_tasks(Console())


@app.command()
def methods() -> None:
    """List the pruning methods, curves and scopes."""
    from dsprune.commands.catalog import list_methods

    list_methods(Console())


@app.command()
def suites() -> None:
    """List the shipped suites."""
    from dsprune.commands.catalog import list_suites

    list_suites(Console())

"""The command-line application, and the arguments that several commands share."""

from typing import Annotated

import typer

import dsprune
from dsprune.utils.installation import shipped_names

__all__ = ["Overrides", "RecipeArgument", "app"]

app = typer.Typer(pretty_exceptions_enable=False)


def _complete_recipe(incomplete: str) -> list[str]:
    """Return the shipped recipes that begin so; a shell completes files where there are none."""
    return [name for name in shipped_names("recipes") if name.startswith(incomplete)]


RecipeArgument = Annotated[
    str,
    typer.Argument(help="A recipe file, or the name of a shipped recipe.", autocompletion=_complete_recipe),
]


Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Recipe values.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"dsprune {dsprune.__version__}")
        raise typer.Exit


@app.callback()
def _application(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit."),
    ] = False,
) -> None:
    """Gradual magnitude pruning of language models inside DeepSpeed ZeRO."""

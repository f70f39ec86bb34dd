"""What the commands hang on, and the arguments that several of them share."""

from typing import Annotated

import typer

__all__ = ["Overrides", "RecipeArgument", "app"]

app = typer.Typer(
    help="Gradual magnitude pruning of language models inside DeepSpeed ZeRO.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


RecipeArgument = Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped recipe.")]


Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Recipe values.")]

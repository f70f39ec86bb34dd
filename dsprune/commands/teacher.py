"""`dsprune teacher`: compute the teacher logits store of a recipe."""

from pathlib import Path
from typing import Literal

from rich.console import Console

from dsprune.distillation.capture.build_store import build_store
from dsprune.distillation.capture.forward import Execution, Source
from dsprune.model.pretrained import load_tokenizer
from dsprune.ranks.ranks import Ranks
from dsprune.recipe import Recipe
from dsprune.tasks.build import build_task
from dsprune.utils.console import say
from dsprune.zero.launch import join_ranks

__all__ = ["teacher"]


def teacher(
    recipe: Recipe,
    batch_size: int,
    precision: Literal["fp32", "bf16", "fp16"],
    stage: int,
    ranks: Ranks,
    console: Console,
) -> None:
    """Run the recipe's teacher over its training data, and store its logits.

    Collective: every rank must call this.

    The arguments are the options of `dsprune teacher`.

    Raises:
        UserError: a section is missing in the recipe; see also `build_store`.
    """
    settings = recipe.distillation
    if recipe.model is None or recipe.task is None or settings is None:
        raise recipe.lacks("a store", "model", "task", "distillation")
    folder = Path(settings.store or Path(recipe.output, f"{recipe.name}-teacher"))
    execution = Execution(join_ranks(ranks), batch_size, precision, sharded=stage == 3)
    task = build_task(recipe.task)
    tokenizer = load_tokenizer(recipe.model.tokenizer_path)
    data = task.prepare("train", tokenizer)
    source = Source.of(settings.teacher, task, tokenizer, data)
    build_store(folder, settings, source, execution, console)
    if settings.store is None and ranks.is_first:
        say(console, f"to train with it: distillation.store={folder}")

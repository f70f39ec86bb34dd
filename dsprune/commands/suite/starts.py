"""Write the initial models of iterative pruning that rewinds weights (the lottery ticket)."""

from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dsprune.model.pretrained import load_tokenizer
from dsprune.recipe import Model, Recipe
from dsprune.recipe.pattern import Pattern
from dsprune.registry import SCOPES
from dsprune.selection.complete import select_complete
from dsprune.selection.groups import update_groups
from dsprune.selection.weights import weights_to_prune
from dsprune.tasks.build import build_task
from dsprune.train.preflight import start_model
from dsprune.utils.files import replace_folder
from dsprune.utils.randomness import seed_everything

__all__ = ["save_start", "save_ticket"]


def save_start(recipe: Recipe, model: Model, folder: Path) -> None:
    """Write the initial model of a training, with a head from the recipe's seed.

    Raises:
        UserError: the recipe has no task.
    """
    if recipe.task is None:
        raise recipe.lacks("training", "model", "task")
    tokenizer = load_tokenizer(model.tokenizer_path)
    task = build_task(recipe.task).for_tokenizer(tokenizer)
    seed_everything(recipe.seed)
    _save(start_model(task, model, tokenizer), tokenizer, folder)


def save_ticket(recipe: Recipe, trained: Path, start: Path, folder: Path) -> None:
    """Write the model `start` with those weights set to zero whose values in `trained` are the smallest."""
    assert recipe.task is not None
    assert recipe.pruning is not None
    tokenizer = load_tokenizer(str(start))
    task = build_task(recipe.task).for_tokenizer(tokenizer)
    model, before = task.build_model(str(trained), tokenizer), task.build_model(str(start), tokenizer)
    pruning = recipe.pruning
    tensors = weights_to_prune(model, pruning).tensors
    weights, rewound = dict(model.named_parameters()), dict(before.named_parameters())
    masks = select_complete(
        tensors,
        [weights[tensor.name] for tensor in tensors],
        update_groups(tensors, pruning, progress=1.0),
        normalized=SCOPES.get(pruning.scope).normalized,
        pattern=Pattern.parse(pruning.pattern),
    )
    with torch.no_grad():
        for tensor, mask in zip(tensors, masks, strict=True):
            rewound[tensor.name].masked_fill_(~mask, 0.0)
    _save(before, tokenizer, folder)


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model folder atomically."""

    def write(temporary: Path) -> None:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)

    replace_folder(folder, write)

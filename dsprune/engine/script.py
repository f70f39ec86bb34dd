"""Apply a recipe to the model of a script, and name the fields that the script decides."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from dsprune.errors import UserError
from dsprune.model.fit import layer_stack, set_dropout
from dsprune.ranks.group import announce
from dsprune.recipe import Distillation, Model, Recipe

__all__ = ["check_distilled", "check_steps_per_epoch", "fields_of_the_script", "fit_to_recipe"]

_OF_THE_SCRIPT = ("task", "deepspeed", "seed", "timeout", "output")
_SECTIONS_OF_THE_SCRIPT = ("model", "checkpoints", "tracking")
_OF_THE_ENGINE = ("model.dropout", "model.layers", "model.start")


def check_steps_per_epoch(steps: Any) -> None:
    """Check the steps per epoch that a script gives; None = they are counted.

    Raises:
        UserError: it is no positive int. Other numbers, such as numpy's, cannot be saved in a checkpoint.
    """
    if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
        raise UserError(f"steps_per_epoch={steps!r}: must be an int, 1 or more")


def fit_to_recipe(model: nn.Module, recipe: Recipe) -> None:
    """Apply the recipe's section `model` to a script's model, in place, and print the fields that the script decides.

    Raises:
        UserError: a field applies only when dsprune loads the model, or the model has another number of layers.
    """
    if recipe.model is not None:
        _check_built(model, recipe.model)
        if recipe.model.dropout is not None:  # the law does not change the model of a script
            set_dropout(model, recipe.dropout)
    if fields := ", ".join(fields_of_the_script(model, recipe)):
        announce(f"the script decides {fields}, not the recipe")


def fields_of_the_script(model: nn.Module, recipe: Recipe) -> Iterator[str]:
    """Yield the fields that only the commands use and that differ from their defaults."""
    path = getattr(model, "name_or_path", None)
    for name, value in recipe.model_dump(exclude_defaults=True).items():
        if name in _SECTIONS_OF_THE_SCRIPT:
            for key, setting in value.items():
                field = f"{name}.{key}"
                if field not in _OF_THE_ENGINE and (field, setting) != ("model.path", path):
                    yield field
        elif name in _OF_THE_SCRIPT and not _is_used(name, recipe):
            yield name


def check_distilled(settings: Distillation | None, used: Distillation | None) -> None:
    """Check that `DistillationLoss` was called in the loop of a script as the recipe asks for.

    Args:
        settings: the section of the engine's recipe.
        used: the section of the recipe of the `DistillationLoss` that was called.

    Raises:
        UserError: it was not.
    """
    if settings is None:
        return
    if used is None:
        raise UserError(
            f"distillation.teacher={settings.teacher}: dsprune.DistillationLoss was not called before the first step, "
            f"so nothing would be distilled: call it in the loop, or leave the section out"
        )
    for name in ("hardness", "temperature"):
        asked, found = (getattr(section, name).model_dump() for section in (settings, used))
        if asked != found:
            raise UserError(
                f"distillation.{name}: {asked} in the recipe of the engine and {found} in that of the "
                f"DistillationLoss: give both the same recipe"
            )


def _check_built(model: nn.Module, settings: Model) -> None:
    """Refuse fields that apply only when dsprune loads the model."""
    for name, default in (("vocabulary", "all"), ("new_head", False), ("resize_embeddings", False)):
        value = getattr(settings, name)
        if value != default:
            raise UserError(
                f"model.{name}: {str(value).lower()}: `dsprune train` does this when it loads a model, and here the "
                f"script has loaded it: do it in the script, and leave this out of the recipe"
            )
    if settings.layers is not None:
        num_layers = len(layer_stack(model)[1])
        if num_layers != len(settings.layers):
            raise UserError(
                f"model.layers: {list(settings.layers)}: {len(settings.layers)} layers, but the script's model has "
                f"{num_layers}: keep these layers in the script before DeepSpeed is initialized, or leave this out"
            )


def _is_used(name: str, recipe: Recipe) -> bool:
    """Return whether a field that the script decides is also used by dsprune."""
    if name == "task":  # `DistillationLoss` reads it
        return recipe.distillation is not None
    pruning = recipe.pruning
    return (
        name == "seed"
        and pruning is not None
        and bool({pruning.method, pruning.first_method} & {"random", "set"})
    )

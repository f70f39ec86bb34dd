"""Compare the settings of an engine with the recipe; disagreements are refused before training."""

from collections.abc import Iterable, Iterator
from math import isclose
from typing import Any

import torch
from deepspeed import DeepSpeedEngine

from dsprune.errors import UserError
from dsprune.recipe import Recipe
from dsprune.zero.limits import optimizer_kind

__all__ = ["check_batch", "check_settings"]


def check_settings(engine: DeepSpeedEngine, recipe: Recipe) -> None:
    """Check that the engine has the values that the recipe sets explicitly; defaults of the recipe yield to the engine.

    Raises:
        UserError: names every setting that differs, with both values.
    """
    _refuse_differences(recipe, [*_batches(engine, recipe), *_pairs(engine, recipe)])


def check_batch(engine: DeepSpeedEngine, recipe: Recipe) -> None:
    """Check that the batch size is still the recipe's.

    Raises:
        UserError: as `check_settings`.
    """
    _refuse_differences(recipe, _batches(engine, recipe))


def _refuse_differences(recipe: Recipe, pairs: Iterable[tuple[str, Any, Any]]) -> None:
    if differences := list(_differences(recipe, pairs)):
        raise UserError(
            f"the engine and the recipe disagree: {'; '.join(differences)}: change one of them, or leave the value "
            f"out of the recipe"
        )


def _differences(recipe: Recipe, pairs: Iterable[tuple[str, Any, Any]]) -> Iterator[str]:
    for field, ours, theirs in pairs:
        *sections, name = field.split(".")
        owner: Any = recipe
        for section in sections:
            owner = getattr(owner, section)
        is_set = name in owner.model_fields_set and ours is not None
        is_same = recipe.learning_rate.is_peak(theirs) if name == "peak" else _is_same(ours, theirs)
        if is_set and not is_same:
            value = f"{field}={_shown(ours)}" if name != "peak" else recipe.learning_rate.shown_peak
            yield f"{value} in the recipe, {_shown(theirs)} in the engine"


def _batches(engine: DeepSpeedEngine, recipe: Recipe) -> Iterator[tuple[str, Any, Any]]:
    """Yield a field of the batch, its value and that of the engine."""
    yield "budget.batch", recipe.budget.batch, engine.train_batch_size()
    yield "budget.micro_batch", recipe.budget.micro_batch, engine.train_micro_batch_size_per_gpu()


def _pairs(engine: DeepSpeedEngine, recipe: Recipe) -> Iterator[tuple[str, Any, Any]]:
    """Yield the other fields of the recipe, each with its value and that of the engine."""
    yield "gradient_clipping", recipe.gradient_clipping, engine.gradient_clipping()
    precision = "bf16" if engine.bfloat16_enabled() else "fp16" if engine.fp16_enabled() else "fp32"
    yield "precision", recipe.precision, precision
    optimizer, kind = engine.basic_optimizer, recipe.optimizer.type
    groups = optimizer.param_groups
    yield "optimizer.type", kind, kind if _is_of_type(optimizer, kind) else type(optimizer).__name__
    if not recipe.learning_rate.scale:
        peaks = {group.get("initial_lr", group["lr"]) for group in groups}
        yield "learning_rate.peak", recipe.learning_rate.peak, _common(peaks)
    yield "optimizer.decoupled", recipe.optimizer.decoupled, _is_decoupled(optimizer)
    # Biases and norms may have no weight decay, so one group may differ.
    decays = {group["weight_decay"] for group in groups if "weight_decay" in group}
    if len(decays) > 1 and 0.0 in decays:
        decays.discard(0.0)
        yield "optimizer.decayed", recipe.optimizer.decayed, "matrices"
    if decays:
        yield "optimizer.weight_decay", recipe.optimizer.weight_decay, _common(decays)
    for name in ("betas", "eps"):
        values = {tuple(v) if isinstance(v := group[name], list) else v for group in groups if name in group}
        if values:
            yield f"optimizer.{name}", getattr(recipe.optimizer, name), _common(values)


def _is_of_type(optimizer: Any, kind: str) -> bool:
    """Return whether a name in a ds_config means this optimizer; DeepSpeed's `Adam` is AdamW by default."""
    found = optimizer_kind(optimizer).removeprefix("Fused").removeprefix("DeepSpeedCPU").lower()
    if (found, kind.lower()) == ("adam", "adamw"):
        return _is_decoupled(optimizer)
    return found.removesuffix("w") == kind.lower().removesuffix("w")


def _is_decoupled(optimizer: Any) -> bool:
    """Return whether weight decay is decoupled; Adam of DeepSpeed and of torch store this differently."""
    is_torch_adamw = isinstance(optimizer, torch.optim.AdamW)  # whose groups do not say it before torch 2.7
    by_torch = optimizer.param_groups[0].get("decoupled_weight_decay", is_torch_adamw)
    return bool(getattr(optimizer, "adam_w_mode", by_torch))


def _common(values: set[Any]) -> Any:
    """Return the value if all are equal; otherwise all values."""
    return next(iter(values)) if len(values) == 1 else sorted(values)


def _is_same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, int | float):
        return isclose(ours, theirs, rel_tol=1e-6)
    return bool(ours == theirs)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

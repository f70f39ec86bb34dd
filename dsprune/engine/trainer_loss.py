"""Find a loss that transformers' Trainer multiplies by the number of ranks and of accumulation steps."""

import inspect
from typing import Any

from torch import nn
from transformers import TrainingArguments

from dsprune.engine.engine import PruningEngine
from dsprune.ranks.group import announce

__all__ = ["watch_loss"]


def watch_loss(engine: PruningEngine, args: TrainingArguments) -> None:
    """Announce at the first step if the Trainer multiplies the loss, and so the gradients.

    The Trainer gives `num_items_in_batch` to each model whose `forward` takes any keyword, and expects a loss that is
    divided by it. About half of transformers' models, such as those of the BERT family, return the mean of the
    micro-batch instead, which is then neither divided by the accumulation steps nor averaged over the ranks.
    """
    ranks = args.world_size if args.average_tokens_across_devices else 1
    factor = ranks * args.gradient_accumulation_steps
    if factor == 1 or not _returns_mean(engine.module):
        return

    def check(_: nn.Module, __: Any, inputs: dict[str, Any]) -> None:
        module = engine.module
        if not module.training:
            return
        hook.remove()
        if all(inputs.get(name) is not None for name in ("labels", "num_items_in_batch")):
            announce(
                f"{type(module).__name__}: the Trainer multiplies its loss and gradients by {factor}, the product of "
                "ranks and accumulation steps, because the model ignores num_items_in_batch; gradients are then "
                "clipped more: set model.accepts_loss_kwargs = False before Trainer(...)"
            )

    # The engine is not compiled with its module.
    hook = engine.register_forward_pre_hook(check, with_kwargs=True)


def _returns_mean(model: nn.Module) -> bool:
    """Return whether `forward` computes the loss with a class of torch, and does not mention the number of items."""
    code = getattr(inspect.unwrap(type(model).forward), "__code__", None)
    names = {*code.co_names, *code.co_varnames} if code is not None else set()
    divides = {"loss_function", "num_items_in_batch"} & names
    return not divides and any(name.endswith("Loss") for name in names)

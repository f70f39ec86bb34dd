"""Refuse modules whose weight is computed from other parameters: zeros in those are not zeros of the weight."""

from collections.abc import Collection, Iterator

from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from dsprune.errors import UserError

__all__ = ["check_plain"]


def check_plain(model: nn.Module, candidates: Collection[int]) -> None:
    """Check that the weights to prune are those that the modules multiply with.

    Args:
        model: the model.
        candidates: ids of the parameters that may be pruned.

    Raises:
        UserError: a module computes its weight from them; names the call that undoes it.
    """
    for path, module in model.named_modules():
        remedy = next(_wrappers(module), None)
        if remedy is not None and any(id(parameter) in candidates for parameter in module.parameters()):
            raise UserError(f"model: {path or type(module).__name__}: {remedy}")


def _wrappers(module: nn.Module) -> Iterator[str]:
    """Say how the weights of a module are computed, and how to undo it; nothing for a plain module."""
    if type(module).__module__.partition(".")[0] == "peft" or "base_layer" in dict(module.named_children()):
        yield (
            "a PEFT adapter: merge it into the weights, model = model.merge_and_unload(), and give the merged model"
        )
    if is_parametrized(module):
        for name in module.parametrizations:  # type: ignore[union-attr]
            call = f"torch.nn.utils.parametrize.remove_parametrizations(module, {name!r})"
            yield f"its {name} is parametrized: call {call} first"
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod):
            call = f"torch.nn.utils.prune.remove(module, {hook._tensor_name!r})"
            yield (
                f"its {hook._tensor_name} is masked by torch.nn.utils.prune: call {call} first, and load its zeros "
                f"with masks_from='zeros'"
            )
        if isinstance(hook, WeightNorm):
            call = f"torch.nn.utils.remove_weight_norm(module, {hook.name!r})"
            yield f"its {hook.name} is reparametrized by weight_norm: call {call} first"
        if isinstance(hook, SpectralNorm):
            call = f"torch.nn.utils.remove_spectral_norm(module, {hook.name!r})"
            yield f"its {hook.name} is reparametrized by spectral_norm: call {call} first"

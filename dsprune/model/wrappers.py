"""Refuse modules that cannot be pruned or saved: wrapped modules, and weights computed from others."""

from collections.abc import Collection, Iterator

from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from dsprune.errors import UserError

__all__ = ["check_no_adapter", "check_not_compiled", "check_plain"]


def check_no_adapter(model: nn.Module) -> None:
    """Check that a model has no adapters of PEFT, without importing PEFT.

    Raises:
        UserError: it has: its base weights are frozen, and a pruned adapter does not make a sparse model.
    """
    for name, module in model.named_modules():
        if hasattr(module, "peft_config") or hasattr(module, "base_layer"):
            raise UserError(
                f"model: {name or type(model).__name__} has an adapter of PEFT: prune the "
                f"merged model, model.merge_and_unload()"
            )


def check_not_compiled(model: nn.Module) -> None:
    """Check that no module is wrapped by `torch.compile`, which fails in DeepSpeed at ZeRO stage 3.

    Raises:
        UserError: one is.
    """
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod"):
            raise UserError(
                f"model: {name or 'it'} is wrapped by torch.compile, with which DeepSpeed does not train at ZeRO "
                f"stage 3: call engine.compile() after initialize, or model.compile()"
            )


def check_plain(model: nn.Module, candidates: Collection[int]) -> None:
    """Check that modules use the weights to prune directly, and do not compute other weights from them.

    Raises:
        UserError: a module computes its weight from `candidates` (parameters by id), or has an adapter; the message
            names the call that undoes it.
    """
    check_no_adapter(model)
    for path, module in model.named_modules():
        remedy = next(_wrappers(module), None)
        if remedy is not None and any(id(parameter) in candidates for parameter in module.parameters()):
            raise UserError(f"model: {path or type(module).__name__}: {remedy}")


def _wrappers(module: nn.Module) -> Iterator[str]:
    """Yield how a weight of a module is computed, and the call that undoes it; nothing for a plain module."""
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
        if isinstance(hook, WeightNorm | SpectralNorm):
            norm = "weight_norm" if isinstance(hook, WeightNorm) else "spectral_norm"
            call = f"torch.nn.utils.remove_{norm}(module, {hook.name!r})"
            yield f"its {hook.name} is reparametrized by {norm}: call {call} first"

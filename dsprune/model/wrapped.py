"""Models that another library has wrapped: adapters of PEFT, and compiled modules."""

from torch import nn

from dsprune.errors import UserError

__all__ = ["check_no_adapter", "check_not_compiled"]


def check_no_adapter(model: nn.Module) -> None:
    """Check that a model has no adapters of PEFT, which is not imported for it.

    Raises:
        UserError: it has: its base weights are frozen, and a pruned adapter is no sparse model.
    """
    for name, module in model.named_modules():
        if hasattr(module, "peft_config") or hasattr(module, "base_layer"):
            raise UserError(
                f"model: {name or type(model).__name__} has an adapter of PEFT: prune the "
                f"merged model, model.merge_and_unload()"
            )


def check_not_compiled(model: nn.Module) -> None:
    """Check that no module is wrapped by `torch.compile`, with which DeepSpeed fails at ZeRO stage 3.

    Raises:
        UserError: one is.
    """
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod"):
            raise UserError(
                f"model: {name or 'it'} is wrapped by torch.compile, with which DeepSpeed does not train at ZeRO "
                f"stage 3: call engine.compile() after initialize, or model.compile()"
            )

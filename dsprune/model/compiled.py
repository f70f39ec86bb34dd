"""Names and modules without the wrapper of `torch.compile`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["plain_module", "plain_name"]


def plain_name(name: str) -> str:
    """Return the name of a parameter as in the module that `torch.compile` wraps.

    Examples:
        >>> plain_name("_orig_mod.encoder.weight")
        'encoder.weight'
    """
    return name.replace("_orig_mod.", "")


def plain_module(module: "nn.Module") -> "nn.Module":
    """Return the module that `torch.compile` wraps, or the module itself."""
    plain: nn.Module = getattr(module, "_orig_mod", module)
    return plain

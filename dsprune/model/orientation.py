"""Whether a module stores its matrices as `[outputs, inputs]`, like most, or as `[inputs, outputs]`."""

from torch import nn
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D

__all__ = ["has_inputs_first"]


def has_inputs_first(module: nn.Module) -> bool | None:
    """Return whether the weights of a module have inputs before outputs; None if it is unknown.

    A convolution of width 1 has its kernel after the inputs. Stacked experts of transformers have an attribute for it.
    """
    if isinstance(module, nn.Linear | nn.MultiheadAttention | _ConvNd):
        return False
    if isinstance(module, Conv1D):
        return True
    stored = getattr(module, "is_transposed", None)
    return stored if isinstance(stored, bool) else None

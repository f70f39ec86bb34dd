"""Pruning by other libraries and by dsprune, each on its own linear layers in a plain training loop.

The other libraries multiply each weight by its mask in the forward pass. dsprune masks the gradients, and zeroes newly
pruned weights and moments, with the functions of its engine but without the guards.
"""

from collections.abc import Callable, Sequence
from importlib.metadata import version

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.selection import SPARSITY, groups_of, partition, select_views
from dsprune.masks.bits import apply_all_
from dsprune.masks.mask_set import MaskSet
from dsprune.model.shard import PrunableTensor
from dsprune.ranks.collectives import Comm

__all__ = ["PEERS", "Layers", "Peer"]


class Layers(nn.Module):
    """Linear layers with the shapes of an encoder, one after the other, and random weights."""

    def __init__(self, tensors: Sequence[PrunableTensor]) -> None:
        super().__init__()
        shapes = [tensor.shape for tensor in tensors]
        self.layers = nn.ModuleList(nn.Linear(columns, rows, bias=False) for rows, columns in shapes)
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=0.02)

    def forward(self, hidden: Tensor) -> Tensor:
        """Add each layer's output to its input, where they have the same shape."""
        for layer in self.layers:
            output = layer(hidden)
            hidden = hidden + output if hidden.shape == output.shape else output
        return hidden


class Peer:
    """A library that prunes a model. The masks are buffers of the model.

    Args:
        model: the layers, dense.
        tensors: their shapes.
        optimizer: has taken a step.

    Attributes:
        label: its name in the table.
        package: the installed package that holds it.
        scope: "global" if the weights of all layers are ranked together, "uniform" if those of each layer are.
        in_forward: whether it masks in the forward pass, so that only complete steps can be compared.
        model: the layers, as they are trained.
    """

    label: str
    package = "torch"
    scope = "global"
    in_forward = True

    def __init__(self, model: nn.Module, tensors: Sequence[PrunableTensor], optimizer: Optimizer) -> None:
        self.model = model
        self.weights = list(model.parameters())

    @classmethod
    def installed(cls) -> str:
        """Return package and version."""
        return f"{cls.package} {version(cls.package)}"

    def update(self) -> None:
        """Select the masks."""
        raise NotImplementedError

    def before_step(self) -> None:
        """Do the work between the backward pass and the optimizer's step."""

    def num_pruned(self) -> int:
        """Return the number of weights that the masks prune."""
        masks = [buffer for name, buffer in self.model.named_buffers() if "mask" in name]
        return sum(int((mask == 0).sum()) for mask in masks)

    def held_bytes(self) -> int:
        """Return the bytes of masks and of copies of the weights, in addition to the stored weights."""
        copies = [
            value
            for module in self.model.modules()
            for value in vars(module).values()
            if torch.is_tensor(value)
        ]
        return sum(each.nbytes for each in [*self.model.buffers(), *copies])


class Dsprune(Peer):
    """The compiled functions of dsprune, with a threshold over all layers."""

    label = package = "dsprune"
    in_forward = False

    def __init__(self, model: nn.Module, tensors: Sequence[PrunableTensor], optimizer: Optimizer) -> None:
        super().__init__(model, tensors, optimizer)
        self._masks = MaskSet(partition(tensors, 0, 1))
        self._groups = groups_of(tensors, self.scope)
        self._state = optimizer.state

    def update(self) -> None:
        """Select the masks, and zero pruned weights and moments."""
        views = [weight.detach().view(-1) for weight in self.weights]
        self._masks.replace(select_views(self._masks, self._groups, views, Comm()))
        for name in ("exp_avg", "exp_avg_sq"):
            apply_all_(self._masks.bits, [self._state[weight][name].view(-1) for weight in self.weights])
        apply_all_(self._masks.bits, views)

    def before_step(self) -> None:
        """Mask the gradients."""
        gradients = [weight.grad.view(-1) for weight in self.weights if weight.grad is not None]
        apply_all_(self._masks.bits, gradients)

    def num_pruned(self) -> int:
        """Return the number of weights that the packed masks prune."""
        return sum(self._masks.num_pruned())

    def held_bytes(self) -> int:
        """Return the bytes of the packed masks."""
        return self._masks.nbytes


class DspruneUniform(Dsprune):
    """The same, with a threshold for each layer."""

    scope = "uniform"


class Nncf(Peer):
    """NNCF: it compares weights over their layer's norm."""

    label = "nncf.prune"
    package = "nncf"

    def __init__(self, model: nn.Module, tensors: Sequence[PrunableTensor], optimizer: Optimizer) -> None:
        import nncf
        from nncf.parameters import PruneMode
        from nncf.torch.function_hook.pruning.magnitude.algo import update_pruning_ratio

        super().__init__(model, tensors, optimizer)
        mode = PruneMode.UNSTRUCTURED_MAGNITUDE_GLOBAL
        example = torch.zeros(1, tensors[0].shape[1])
        self.model = nncf.prune(model, mode=mode, ratio=SPARSITY, examples_inputs=example)
        self._update: Callable[..., None] = update_pruning_ratio  # what its schedulers call
        self._mode = mode

    def update(self) -> None:
        """Select the masks."""
        self._update(self.model, self._mode, SPARSITY)


class TorchPrune(Peer):
    """The pruning functions of torch.nn."""

    label = "nn.utils.prune.global_unstructured"

    def update(self) -> None:
        """Select the masks."""
        from torch.nn.utils import prune

        places = [(layer, "weight") for layer in self.model.layers]
        prune.global_unstructured(places, pruning_method=prune.L1Unstructured, amount=SPARSITY)


class TorchAo(Peer):
    """The sparsifier of torch.ao, which has no global scope."""

    label = "torch.ao.pruning.WeightNormSparsifier"
    scope = "uniform"

    def __init__(self, model: nn.Module, tensors: Sequence[PrunableTensor], optimizer: Optimizer) -> None:
        super().__init__(model, tensors, optimizer)
        self._sparsifier = self.sparsifier()(SPARSITY, sparse_block_shape=(1, 1))
        self._sparsifier.prepare(model, config=None)

    @staticmethod
    def sparsifier() -> Callable[..., torch.ao.pruning.WeightNormSparsifier]:
        """Return the class."""
        return torch.ao.pruning.WeightNormSparsifier

    def update(self) -> None:
        """Select the masks."""
        self._sparsifier.step()


class Torchao(TorchAo):
    """Its successor, a prototype of the package torchao."""

    label = "torchao.prototype.sparsity.WeightNormSparsifier"
    package = "torchao"

    @staticmethod
    def sparsifier() -> Callable[..., torch.ao.pruning.WeightNormSparsifier]:
        """Return the class."""
        from torchao.prototype.sparsity import WeightNormSparsifier

        return WeightNormSparsifier


PEERS = (Dsprune, Nncf, TorchPrune, DspruneUniform, TorchAo, Torchao)
"""The libraries of each scope, after dsprune."""

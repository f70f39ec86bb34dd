"""The base classes of pruning methods, their accumulators, and their view of a shard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from dsprune.errors import UserError
from dsprune.kernels.product import Product
from dsprune.model.shard import PrunableTensor
from dsprune.recipe import Pruning
from dsprune.registry import METHODS

__all__ = [
    "DAMPING",
    "DROP",
    "RECOMPUTATIONS",
    "Accumulator",
    "CompensatingMethod",
    "Method",
    "RegrowingMethod",
    "ShardContext",
    "find_method",
    "lets_regrow",
]

DAMPING = 1e-7
"""Default of `pruning.damping`, the value of oBERT's authors."""

DROP = 0.3
"""Default of `pruning.drop`, the value of RigL's authors."""

RECOMPUTATIONS = 4
"""Default of `pruning.recomputations`. The loss of a layer with correlated inputs that is pruned to 50, 80 and 90 % at
once (`tests/unit/test_obert.py`): 37.6, 220 and 293 in one part, 10.3, 85 and 170 in four, 9.8, 84 and 163 in eight;
by magnitude 30.9, 120 and 205. The recipes of oBERT's authors have 16."""


@dataclass(frozen=True)
class Accumulator:
    """A sum over steps that a method keeps for each prunable weight, up to the last mask update.

    It is sharded like the masks, stored in checkpoints, and counted by `dsprune plan`.

    Attributes:
        name: its name in the context.
        dtype: float32 or bfloat16.
        whole_run: True keeps the sums over a mask update; False resets them to zero after each.
        block: 1 sums one value per weight. A larger number sums the products of the values of two weights, for all
            pairs in a block of that many weights: `width` numbers per weight, see `dsprune.kernels.block_products`.
    """

    name: str
    dtype: torch.dtype = torch.float32
    whole_run: bool = False
    block: int = 1

    @property
    def width(self) -> int:
        """Number of values per weight."""
        return 1 if self.block == 1 else self.block // 2 + 1

    def shape(self, numel: int) -> tuple[int, ...]:
        """Return the shape of the sums of some weights: `[numel]`, or `[numel, width]` for products."""
        return (numel,) if self.block == 1 else (numel, self.width)


@dataclass(frozen=True)
class ShardContext:
    """A shard for a method to score; `context[part]` is a part of it.

    Attributes:
        tensor: the tensor of the shard.
        positions: flat index of each weight in the tensor.
        weight: the weights, float32 and 1-D.
        gradient: gradients of the weights after DeepSpeed's reduction, or None if there are none. Methods call
            `unscaled_gradient()` instead.
        state: views of the optimizer's state of the weights by name, such as "exp_avg_sq".
        seed: the run's seed.
        step: number of applied optimizer steps.
        accumulators: the method's sums of the weights by name, `[weights]`, or `[weights, width]` with a `block`.
        loss_scale: factor of fp16 training on the gradients.
        kept: boolean mask of the weights before the mask update, for methods with a `block`.
        num_steps: number of steps over which the accumulators are summed, at a mask update.
        damping: the recipe's `pruning.damping`.
        inputs: norms of the inputs of the tensor's matrices, for methods with `reads_inputs`. They call `input_norms()`
            instead.
    """

    tensor: PrunableTensor
    positions: range
    weight: Tensor
    gradient: Tensor | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0
    step: int = 0
    accumulators: Mapping[str, Tensor] = field(default_factory=dict)
    loss_scale: float = 1.0
    kept: Tensor | None = None
    num_steps: int = 1
    damping: float = DAMPING
    inputs: Tensor | None = None

    def __post_init__(self) -> None:
        assert len(self.positions) == self.weight.numel(), self.tensor

    def __getitem__(self, part: slice) -> ShardContext:
        return replace(
            self,
            positions=self.positions[part],
            weight=self.weight[part],
            gradient=None if self.gradient is None else self.gradient[part],
            state={name: value[part] for name, value in self.state.items()},
            accumulators={name: value[part] for name, value in self.accumulators.items()},
            kept=None if self.kept is None else self.kept[part],
        )

    def unscaled_gradient(self) -> Tensor:
        """Return the float32 gradients before clipping, also of pruned weights; 0 where there is none.

        An entry that is not finite is replaced by 0: DeepSpeed skips such a step, or the weights themselves become NaN.
        """
        if self.gradient is None:
            return torch.zeros_like(self.weight)
        gradient = self.gradient.float()
        unscaled = gradient if self.loss_scale == 1.0 else gradient / self.loss_scale
        return unscaled.nan_to_num(0.0, 0.0, 0.0)

    def input_norms(self) -> Tensor:
        """Return the norm of the input that each weight multiplies, float32."""
        assert self.inputs is not None, "the method does not declare reads_inputs"
        positions = self.positions
        flat = torch.arange(positions.start, positions.stop, positions.step, device=self.inputs.device)
        return self.inputs[self.tensor.inputs_at(flat)]


class Method:
    """Determines which weights are pruned first.

    The results for a weight must depend only on the context's entries for that weight, so that the mask does not depend
    on the sharding. They must not depend on the weight's position in a vector either: functions such as `exp` and
    `addcmul` may differ in the last bit between the vectorized body and the tail of a loop.

    Attributes:
        absolute: whether weights are ordered by the absolute value of their score.
        squared: whether the score of a tile is the sum of the squared scores of its weights, which is right for square
            roots of losses; otherwise it is the sum of the scores.
        block: number of consecutive weights in the flattened tensor that a result may depend on. Above 1, the contexts
            for `scores` hold whole blocks, also those that several ranks share, and neither gradients nor state.
        needs: names of the optimizer's state that the method reads, such as `("exp_avg_sq",)`; a run whose optimizer
            does not keep it is refused before it starts.
        accumulators: the sums that the method keeps for each weight. A method without accumulators costs no memory, and
            no time between mask updates.
        reads_inputs: whether the scores read the norms of the inputs that the weights multiply, over the steps since
            the previous mask update or of the `pruning.window`.
    """

    absolute: ClassVar[bool] = False
    squared: ClassVar[bool] = False
    block: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ()
    accumulators: ClassVar[tuple[Accumulator, ...]] = ()
    reads_inputs: ClassVar[bool] = False

    def increments(self, context: ShardContext) -> Mapping[str, Tensor]:
        """Return what a step adds to each accumulator.

        A method with accumulators must define it. It is called at every step that is summed, up to and including the
        last mask update, before the scores of that update. If DeepSpeed skips the step, nothing is added.

        Args:
            context: some weights of this rank, with the gradients of the step.

        Returns:
            Accumulator name to float32 values, `[weights]`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} keeps accumulators and does not say what a step adds"
        )

    def scores(self, context: ShardContext) -> Tensor:
        """Return the scores at a mask update; the lowest are pruned first. Define this function or `product`.

        Returns:
            Scores, float32, `[weights]`.
        """
        product = self.product(context)
        assert product is not None, f"{type(self).__name__} has neither scores nor a product"
        return product.values()

    def product(self, context: ShardContext) -> Product | None:
        """Return the scores as a product, if they are one: kernels then compute them in the pass that ranks them.

        Returns:
            A product whose values equal those of `scores`, bit for bit. None = `scores` is called, for a part of the
            weights at a time.
        """
        return None

    @classmethod
    def bytes_per_weight(cls) -> int:
        """Return the bytes of the accumulators per weight."""
        return sum(kept.width * kept.dtype.itemsize for kept in cls.accumulators)


class RegrowingMethod(Method, ABC):
    """A method that prunes weights and lets other weights grow back.

    By the scores, a mask update prunes more weights than the timetable asks for. Then it lets the same number of extra
    weights grow back, chosen among all pruned weights by their growth scores. A weight that grows back begins at zero,
    with zero moments.
    """

    @abstractmethod
    def growth_scores(self, context: ShardContext) -> Tensor:
        """Return the growth scores, float32, `[weights]`; the highest grow back first.

        They are compared by absolute value if `absolute` is True, like `scores`.
        """


class CompensatingMethod(Method, ABC):
    """A method that changes the kept weights, to compensate for the weights that a mask update prunes."""

    @abstractmethod
    def compensate(self, context: ShardContext) -> Tensor:
        """Return the new weights, float32, `[weights]`.

        Args:
            context: whole blocks of weights; `weight` has the old weights and `kept` the new mask.
        """


def find_method(name: str) -> type[Method]:
    """Return the class of a pruning method.

    Raises:
        UserError: the name is unknown, or its class is not a method that dsprune can use.
    """
    found = METHODS.get(name)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(
            f"pruning.method: {name!r}: {found} is not a class derived from dsprune.methods.method.Method"
        )
    if found.scores is Method.scores and found.product is Method.product:
        raise UserError(f"pruning.method: {name!r}: {found.__name__} has no scores: define scores or product")
    for kept in found.accumulators:
        if kept.dtype not in (torch.float32, torch.bfloat16):
            raise UserError(
                f"pruning.method: {name!r}: its accumulator {kept.name!r} is {kept.dtype}: use float32 or bfloat16"
            )
    return found


def lets_regrow(pruning: Pruning) -> bool:
    """Return whether weights grow back in a run, by its method or by its curve."""
    return issubclass(find_method(pruning.method), RegrowingMethod) or pruning.curve == "alternating"

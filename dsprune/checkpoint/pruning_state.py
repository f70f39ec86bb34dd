"""The masks of an engine and their weights."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from dsprune.masks.accumulator_set import AccumulatorSet
from dsprune.masks.cut_bands import CutBands
from dsprune.masks.input_sums import InputSums
from dsprune.masks.invariants import Finding, check_shard
from dsprune.masks.manifest import UpdateEntry
from dsprune.masks.mask_set import MaskSet
from dsprune.methods.method import Accumulator, Method, find_method, lets_regrow
from dsprune.model.inputs import InputHooks
from dsprune.model.vocabulary import num_missing
from dsprune.ranks.collectives import Comm, world_comm
from dsprune.recipe import Pruning
from dsprune.recipe.section import LARGEST
from dsprune.schedule import MaskUpdate, Timetable
from dsprune.selection.groups import Group, update_groups
from dsprune.zero.layout import ZeroLayout, full_numel

__all__ = ["PruningState", "sparsity_of"]


class PruningState:
    """The masks of one engine, sharded like its ZeRO optimizer state. Collective: every rank must create it.

    Args:
        layout: this rank's slices of the prunable tensors.
        pruning: the recipe's section `pruning`.
        timetable: the mask updates.

    Attributes:
        comm: the ranks that share the masks.
        masks: the masks of this rank's shards.
        num_pruned: number of pruned weights, over all tensors and ranks.
        num_regrown: number of kept weights that grew back, over all tensors and ranks.
        updates: the mask updates so far.
        initial_pruned: number of zeros of each tensor at the start of the run; empty if it started dense.
        accumulators: the pruning method's accumulators of this rank's shards.
    """

    def __init__(self, layout: ZeroLayout, pruning: Pruning, timetable: Timetable) -> None:
        self.layout, self.pruning, self.timetable = layout, pruning, timetable
        self.regrows = lets_regrow(pruning)
        self.comm = Comm(layout.group, layout.device)
        self.initial_pruned: list[int]
        self.updates: list[UpdateEntry]
        self._cut_blocks: CutBands | None = None  # for a method with a `block`
        self._inputs: InputHooks | None = None
        if find_method(pruning.method).reads_inputs:
            self._inputs = InputHooks(layout.module, layout.tensors, layout.parameters, layout.device)
        self.clear()

    @property
    def num_prunable(self) -> int:
        """Number of prunable weights, over all tensors and ranks."""
        return sum(tensor.numel for tensor in self.layout.tensors)

    @property
    def sparsity(self) -> float:
        """Fraction of zeros of the prunable weights."""
        return self.num_pruned / self.num_prunable

    @property
    def share_regrown(self) -> float:
        """Fraction of the kept weights that grew back."""
        return self.num_regrown / max(1, self.num_prunable - self.num_pruned)

    def restore(
        self, bits: Sequence[Tensor], regrown: Sequence[Tensor] = (), updates: Sequence[UpdateEntry] = ()
    ) -> None:
        """Set the masks of this rank's shards. Collective: every rank must call this.

        Without `regrown`, no weight is marked. `updates` are the mask updates that led to the masks.
        """
        device = self.layout.master_device
        self.masks.replace([row.to(device) for row in bits], [row.to(device) for row in regrown])
        self.num_pruned = sum(self.masks.counts(self.comm))
        self.num_regrown = sum(self.masks.counts_regrown(self.comm))
        self.updates = list(updates)

    def clear(self) -> None:
        """Keep all weights, as at the start of a run. Collective: every rank must call this."""
        self.masks = MaskSet(self.layout.shards, self.layout.master_device, regrows=self.regrows)
        self.num_pruned, self.num_regrown, self.initial_pruned = 0, 0, []
        self.updates = []
        self.reset_accumulators(step=0)

    def method_at(self, step: int) -> type[Method]:
        """Return the method of the first mask update at `step` or later."""
        first, updates = self.pruning.first_method, self.timetable.updates
        if first is not None and updates and step <= updates[0].step:
            return find_method(first)
        return find_method(self.pruning.method)

    def groups(self, update: MaskUpdate) -> list[Group]:
        """Return the groups that a mask update selects from, and how many weights of each are pruned."""
        return update_groups(self.layout.tensors, self.pruning, self.timetable.progress(update))

    def is_counted(self, step: int) -> bool:
        """Return whether the gradients of a step count for the next mask update."""
        update, window = self.timetable.next_update(step), self.pruning.window
        return update is not None and (window is None or update.step - step < window)

    def num_counted(self, update: MaskUpdate) -> int:
        """Return the number of steps that count for a mask update."""
        since = next(
            (past.step + 1 for past in reversed(self.timetable.updates) if past.step < update.step), 0
        )
        return min(update.step + 1 - since, self.pruning.window or LARGEST)

    def declared(self, step: int) -> tuple[Accumulator, ...]:
        """Return the accumulators that the method needs at a step, for the next mask update; empty if there is none."""
        kept = self.method_at(step).accumulators
        if self.is_counted(step):
            return kept
        is_needed = not self.timetable.is_at_target(step) and any(each.whole_run for each in kept)
        return kept if is_needed else ()

    def begin_step(self, step: int, *, updated: bool) -> None:
        """Allocate the accumulators that the method needs from now on; free them after the last mask update.

        Collective for a method with a `block`: every rank must call this. `updated` is whether the previous step was a
        mask update.
        """
        kept = self.accumulators.declared, self.accumulators.inputs is not None
        if (self.declared(step), self._keeps_inputs(step)) != kept:
            self.reset_accumulators(step)
        elif updated:
            self.accumulators.begin_interval()
        self._count_inputs(step)

    def stage_inputs(self) -> None:
        """Sum the inputs of a step over all ranks, if the method reads them.

        Collective in that case, over all ranks at every ZeRO stage: every rank must call this.
        """
        if self._inputs is not None and self.accumulators.inputs is not None:
            everyone = world_comm(self.layout.device)
            self.accumulators.inputs.stage(everyone.all_reduce_sum(self._inputs.take()))

    def _keeps_inputs(self, step: int) -> bool:
        return self._inputs is not None and not self.timetable.is_at_target(step)

    def _count_inputs(self, step: int) -> None:
        if self._inputs is not None:
            self._inputs.begin_step(is_counting=self.is_counted(step))

    def reset_accumulators(self, step: int) -> None:
        """Reset the accumulators to zero. Collective: every rank must call this."""
        layout, block = self.layout, self.method_at(step).block
        declared = self.declared(step)
        if declared and block > 1 and self._cut_blocks is None:
            self._cut_blocks = CutBands(layout.shards, [block] * len(layout.shards), self.comm)
        inputs = InputSums(layout.tensors) if self._keeps_inputs(step) else None
        self.accumulators = AccumulatorSet(
            layout.shards, declared, layout.master_device, self._cut_blocks, inputs
        )
        self._count_inputs(step)

    def mask_bytes(self) -> int:
        """Return the memory of the masks in bytes, over all ranks. Collective: every rank must call this."""
        return int(self.comm.all_reduce_sum(torch.tensor(self.masks.nbytes)))

    def tensor_sparsity(self) -> dict[str, float]:
        """Return the fraction of zeros of each prunable tensor. Collective: every rank must call this."""
        counts = self.masks.counts(self.comm)
        pairs = zip(self.layout.tensors, counts, strict=True)
        return {tensor.name: count / tensor.numel for tensor, count in pairs}

    def audit(self) -> list[Finding]:
        """Check that pruned entries of this rank's weights and moments are +0.0 in every copy."""
        return [
            finding
            for index, (shard, bits) in enumerate(zip(self.masks.shards, self.masks.bits, strict=True))
            for finding in check_shard(shard.tensor.name, bits, dict(self._views(index)))
        ]

    def _views(self, index: int) -> Iterator[tuple[str, Tensor]]:
        yield "master weights", self.layout.weight(index)
        yield "working copy", self.layout.working_copy(index)
        yield from self.layout.states(index).items()


def sparsity_of(model: nn.Module, state: PruningState | None) -> dict[str, float]:
    """Return the fraction of zeros of the prunable weights, and of all weights of the engine's model.

    With a shortened vocabulary, also of all weights with the complete vocabulary.
    """
    if state is None:
        return {"sparsity_prunable": 0.0, "sparsity_model": 0.0}
    num_weights = sum(map(full_numel, model.parameters()))
    sparsity = {"sparsity_prunable": state.sparsity, "sparsity_model": state.num_pruned / num_weights}
    if missing := num_missing(model):
        sparsity["sparsity_full_vocabulary"] = state.num_pruned / (num_weights + missing)
    return sparsity

"""The batches of training and evaluation, and how ranks divide them.

The order of training examples is a pure function of the seed and the step. Step `b` of epoch `e` trains on the
examples `batches_e[b]`, which depend on the seed, the epoch and the lengths of the examples only. Ranks and
micro-batches only divide these examples: the step's gradient is the same mean on any number of ranks, and
training resumes at any step without reading earlier examples.

A forward pass pads its examples to the longest, so examples of similar length share a batch: a random window of
examples is sorted by length and cut into batches, and the batches are shuffled.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dsprune.errors import UserError

__all__ = ["BatchPlan", "EvaluationBatch", "TrainSampler", "evaluation_batches"]

WINDOW = 16
"""Number of batches that are sorted by length together: large enough to avoid padding, small enough to stay random."""


@dataclass(frozen=True)
class BatchPlan:
    """The examples of each optimizer step, and their division among ranks and micro-batches.

    Attributes:
        num_examples: size of the training data; each epoch omits `num_examples % batch` random examples.
        batch: examples per optimizer step, over all ranks.
        micro_batch: examples per forward pass on one rank.
        world_size: number of ranks.
        seed: determines the random order.
    """

    num_examples: int
    batch: int
    micro_batch: int
    world_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_examples < self.batch:
            raise UserError(
                f"budget.batch: {self.batch} is more than the {self.num_examples} training examples: lower it"
            )
        if self.batch % (self.micro_batch * self.world_size):
            raise UserError(
                f"budget.batch: {self.batch} is not a multiple of budget.micro_batch {self.micro_batch} "
                f"times {self.world_size} ranks: change one of them"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return self.num_examples // self.batch

    @property
    def accumulation(self) -> int:
        """Forward passes of a rank per optimizer step."""
        return self.batch // (self.micro_batch * self.world_size)

    def batches(self, epoch: int, lengths: np.ndarray) -> np.ndarray:
        """Return the examples of each step of an epoch, `[steps_per_epoch, batch]`."""
        random = np.random.default_rng([self.seed, epoch])
        examples = random.permutation(self.num_examples)[: self.steps_per_epoch * self.batch]
        windows = np.split(examples, range(WINDOW * self.batch, len(examples), WINDOW * self.batch))
        by_length = [window[np.argsort(lengths[window], kind="stable")] for window in windows]
        return random.permutation(np.concatenate(by_length).reshape(-1, self.batch))

    def divide(self, examples: np.ndarray, lengths: np.ndarray, rank: int) -> list[list[int]]:
        """Return the micro-batches of one rank for the `batch` examples of a step.

        Examples of similar length share a forward pass on all ranks, which reduces padding and waiting.
        """
        by_length = examples[np.argsort(lengths[examples], kind="stable")]
        passes = by_length.reshape(self.accumulation, self.micro_batch, self.world_size)
        numbers: list[list[int]] = passes[:, :, rank].tolist()
        return numbers


class TrainSampler:
    """The micro-batches of one rank, as example numbers, for the optimizer steps `start <= step < stop`.

    It is a `batch_sampler` for `torch.utils.data.DataLoader`; `plan.accumulation` of its batches make a step.
    """

    def __init__(
        self, plan: BatchPlan, lengths: Sequence[int] | np.ndarray, rank: int, *, start: int, stop: int
    ) -> None:
        assert len(lengths) == plan.num_examples
        self.plan, self.lengths, self.rank = plan, np.asarray(lengths), rank
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return (self.stop - self.start) * self.plan.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        plan = self.plan
        batches, epoch_of_batches = np.empty((0, plan.batch), dtype=int), None
        for step in range(self.start, self.stop):
            epoch, position = divmod(step, plan.steps_per_epoch)
            if epoch != epoch_of_batches:
                batches, epoch_of_batches = plan.batches(epoch, self.lengths), epoch
            yield from plan.divide(batches[position], self.lengths, self.rank)


@dataclass(frozen=True)
class EvaluationBatch:
    """The examples of one forward pass.

    Attributes:
        examples: numbers of the examples.
        counts: False for a repetition, which only gives this rank the same number of passes as the others.
    """

    examples: tuple[int, ...]
    counts: bool = True


def evaluation_batches(
    lengths: Sequence[int], batch_size: int, rank: int, world_size: int
) -> list[EvaluationBatch]:
    """Return the forward passes of one rank, longest examples first, so that a lack of memory shows early.

    Every rank gets the same number of passes, because a forward pass is collective under ZeRO-3. A rank with
    fewer examples repeats its last batch.

    Args:
        lengths: length of every example, at least one example.
        batch_size: examples per forward pass on a rank.
        rank: the rank.
        world_size: number of ranks.
    """
    assert lengths
    by_length = sorted(range(len(lengths)), key=lambda example: -lengths[example])
    mine = by_length[rank::world_size] or by_length[:1]
    batches = [
        EvaluationBatch(tuple(mine[start : start + batch_size]), counts=rank < len(lengths))
        for start in range(0, len(mine), batch_size)
    ]
    most = len(by_length[::world_size])  # rank 0 has the most examples
    passes = -(-most // batch_size)
    return batches + [EvaluationBatch(batches[-1].examples, counts=False)] * (passes - len(batches))

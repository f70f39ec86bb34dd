"""A mask set counts and hashes the whole masks, for any sharding."""

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta

import pytest
import torch
from torch import Tensor

from dsprune.kernels.cpu import kernel_for
from dsprune.masks.bits import pack, unpack
from dsprune.masks.mask_set import MaskSet, digest_eager
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.collectives import Comm
from dsprune.testing import pool as pool_module
from dsprune.testing.methods import cut_randomly, part_of
from dsprune.testing.pool import RankFailedError, RankPool

TENSORS = [PrunableTensor("a", (7, 11)), PrunableTensor("b", (3,)), PrunableTensor("c", (1001,))]


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with RankPool(3) as ranks:
        yield ranks


def sparse_weights(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tensor.numel, generator=generator).round() for tensor in TENSORS]


def whole(weights: Sequence[Tensor]) -> MaskSet:
    return MaskSet.from_zeros([Shard(tensor, 0, tensor.numel) for tensor in TENSORS], weights)


def counts_and_digest(
    comm: Comm, ranks: Sequence[Sequence[Shard]], weights: Sequence[Tensor]
) -> tuple[list[int], int]:
    shards = ranks[comm.rank]
    masks = MaskSet.from_zeros(shards, [part_of(w, shard) for w, shard in zip(weights, shards, strict=True)])
    return masks.counts(comm), masks.digest(comm)


def fail_on_rank_1(comm: Comm) -> None:
    assert comm.rank != 1, "as it should"


def sleep(comm: Comm, seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_starts_with_everything_kept() -> None:
    masks = MaskSet([Shard(tensor, 0, tensor.numel) for tensor in TENSORS])
    assert masks.num_pruned() == [0, 0, 0]
    assert masks.digest(Comm()) == 0


def test_from_zeros_prunes_zeros_of_both_signs() -> None:
    shard = Shard(PrunableTensor("w", (4,)), 0, 4)
    masks = MaskSet.from_zeros([shard], [torch.tensor([0.0, 1.0, -0.0, 1e-45])])
    assert unpack(masks.bits[0], 4).tolist() == [False, True, False, True]
    assert masks.num_pruned() == [2]


def test_a_mask_takes_one_bit_a_weight() -> None:
    assert whole(sparse_weights(0)).nbytes == 10 + 1 + 126


@pytest.mark.parametrize("world", [1, 2, 3])
def test_counts_and_digest_do_not_depend_on_the_sharding(pool: RankPool, world: int) -> None:
    weights = sparse_weights(0)
    counts = [int((weight == 0).sum()) for weight in weights]
    digest = whole(weights).digest(Comm())
    for seed in range(3):
        ranks = cut_randomly(TENSORS, world, seed)
        results = pool.run(world, counts_and_digest, ranks, weights)
        assert results == [(counts, digest)] * world


def test_the_digest_tells_every_single_weight_apart() -> None:
    weights = [torch.ones(tensor.numel) for tensor in TENSORS]
    digests = set()
    for weight in weights:
        for index in range(weight.numel()):
            weight[index] = 0
            digests.add(whole(weights).digest(Comm()))
            weight[index] = 1
    assert len(digests) == sum(tensor.numel for tensor in TENSORS)


def test_the_digest_is_the_same_with_and_without_the_kernel() -> None:
    for size in (1, 8, 77, 1001):
        mask = torch.rand(size, generator=torch.Generator().manual_seed(size)) > 0.5
        kernel = kernel_for(mask)
        assert kernel.digest(pack(mask), size, 2**63 - 5) == int(digest_eager(pack(mask), size, 2**63 - 5))


def test_replaced_masks_have_the_digest_of_the_new_ones() -> None:
    masks, other = whole(sparse_weights(0)), whole(sparse_weights(1))
    masks.replace(other.bits)
    assert masks.digest(Comm()) == other.digest(Comm())


def test_a_rank_that_fails_is_heard() -> None:
    with RankPool(2) as ranks, pytest.raises(RankFailedError, match=r"(?s)rank 1 of 2:.*as it should"):
        ranks.run(2, fail_on_rank_1)


def test_a_late_answer_is_not_that_of_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with RankPool(1) as ranks:
        assert ranks.run(1, sleep, 0.0) == [0.0]
        monkeypatch.setattr(pool_module, "TIMEOUT", timedelta(seconds=-9.5))
        with pytest.raises(RankFailedError, match="gave no answer in time"):
            ranks.run(1, sleep, 2.0)
        monkeypatch.undo()
        assert ranks.run(1, sleep, 1.0) == [1.0]

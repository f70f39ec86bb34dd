"""Compiled functions in several threads give the same bits as in one."""

from collections.abc import Iterator
from threading import Barrier, get_ident
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from dsprune.kernels.cpu import in_threads
from dsprune.kernels.product import Product
from dsprune.masks.bits import apply_all_, pack
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection import select
from dsprune.selection.groups import make_groups
from dsprune.selection.scan import HIGHEST_KEY, LOWEST_KEY, Scorer
from dsprune.selection.shard_scores import ShardScores

SIZES = (4099, 1, 9, 64, 30_001)


@pytest.fixture
def _set_back() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def prune(scope: str, rooted: bool) -> list[Tensor]:
    """Select masks and apply them; return both."""
    weights = list(torch.randn(sum(SIZES), generator=torch.Generator().manual_seed(0)).split(SIZES))
    tensors = [PrunableTensor(str(place), (size,)) for place, size in enumerate(SIZES)]
    products = [Product(weight, weight.cos().square() if rooted else None) for weight in weights]
    scorers = [Scorer(lambda part: pytest.fail("torch computes"), True, product) for product in products]
    shards = [Shard(tensor, 0, tensor.numel) for tensor in tensors]
    kept = [pack(torch.ones(size, dtype=torch.bool)) for size in SIZES]
    masks = select(shards, scorers, kept, make_groups(tensors, [0.7] * len(SIZES), scope), Comm())
    apply_all_(masks, weights)
    return [*masks, *weights]


@pytest.mark.usefixtures("_set_back")
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize(("scope", "rooted"), [("global", False), ("uniform", True)])
def test_masks_and_weights_do_not_depend_on_the_threads(threads: int, scope: str, rooted: bool) -> None:
    torch.set_num_threads(1)
    wanted = prune(scope, rooted)
    torch.set_num_threads(threads)
    assert all(map(torch.equal, prune(scope, rooted), wanted))


@pytest.mark.usefixtures("_set_back")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_as_many_threads_work_as_torch_has(threads: int) -> None:
    torch.set_num_threads(threads)
    meeting = Barrier(threads)

    def work(number: int) -> tuple[int, int]:
        meeting.wait(60)
        return number, get_ident()

    found = in_threads(work, [(number,) for number in range(threads)], [torch.ones(3)])
    assert [number for number, _ in found] == list(range(threads))
    assert len({thread for _, thread in found}) == threads


@pytest.mark.usefixtures("_set_back")
def test_one_thread_works_without_compiled_functions() -> None:
    torch.set_num_threads(2)
    found = in_threads(lambda _: get_ident(), [(0,), (1,)], [torch.ones(3, 2)[:, 0]])
    assert found == [get_ident()] * 2


class Recorded(Product):
    """A product that records the threads that read it."""

    readers: ClassVar[set[int]] = set()

    def __getitem__(self, part: slice) -> Product:
        self.readers.add(get_ident())
        return super().__getitem__(part)


@pytest.mark.usefixtures("_set_back")
def test_a_shard_without_weights_and_scores_leaves_the_others_to_the_threads() -> None:
    torch.set_num_threads(2)
    Recorded.readers.clear()
    tensors = [PrunableTensor(name, (99,)) for name in "ab"]
    shards = [Shard(tensors[0], 0, 99), Shard(tensors[1], 0, 0)]
    weights = torch.randn(99)
    scorers = [Scorer(weights.__getitem__, True, Recorded(weights)), Scorer(torch.empty(0).__getitem__, True)]
    kept = [pack(torch.ones(shard.numel, dtype=torch.bool)) for shard in shards]
    scores = ShardScores(shards, scorers, kept, make_groups(tensors, [0.5, 0.5], "uniform"))
    scores.scan([(LOWEST_KEY, HIGHEST_KEY)] * 2)
    assert Recorded.readers
    assert get_ident() not in Recorded.readers

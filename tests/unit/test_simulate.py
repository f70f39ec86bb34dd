import sys
from dataclasses import astuple
from types import ModuleType

import pytest

from dsprune.model.shard import PrunableTensor
from dsprune.selection.groups import make_groups
from dsprune.selection.traffic import update_bytes
from tests.scripts import SCRIPTS, load


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.delitem(sys.modules, "bench", raising=False)
    return load("bench/simulation")


@pytest.mark.parametrize("scope", ["global", "uniform"])
@pytest.mark.parametrize(("rank", "world"), [(0, 2), (3, 4), (500, 1000)])
def test_one_rank_among_drawn_ones_prunes_its_share(
    simulation: ModuleType, scope: str, rank: int, world: int
) -> None:
    tensors = [PrunableTensor(str(place), (300, 1000)) for place in range(6)]
    groups = make_groups(tensors, [0.9] * 6, scope)
    update = simulation.simulate_update(tensors, groups, rank, world)
    assert sum(update.num_pruned) == sum(group.num_pruned for group in groups)
    assert update.sent <= update_bytes(groups, world)
    own = sum(shard.numel for shard in simulation.shards_of(tensors, rank, world)[0])
    assert update.num_pruned[0] / own == pytest.approx(0.9, abs=0.03)
    again = simulation.simulate_update(tensors, groups, rank, world)
    assert astuple(again)[1:3] == astuple(update)[1:3]
    assert again.num_pruned == update.num_pruned


def test_the_largest_model_has_its_published_size(simulation: ModuleType) -> None:
    assert sum(tensor.numel for tensor in simulation.tensors_of("llama-70b")) == 68_451_041_280

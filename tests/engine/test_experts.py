"""A mixture of experts reaches its target in its experts, at every stage, and its routers stay dense."""

from pathlib import Path

import pytest

from dsprune.model.prunable import choose_weights
from dsprune.testing.engines import ds_config, make_recipe
from dsprune.testing.pool import RankPool
from tests.engine import experts


@pytest.mark.parametrize(("ranks", "stage"), [(1, 3), (2, 0), (2, 1), (2, 2), (2, 3)], indirect=["ranks"])
def test_experts_are_pruned_exactly_and_routers_stay_dense(
    ranks: RankPool, stage: int, tmp_path: Path
) -> None:
    answers = ranks.run(ranks.size, experts.check_experts, ds_config(stage), make_recipe(), str(tmp_path))
    choice = choose_weights(experts.mixtral(0))
    digest, counts, num_prunable = answers[0]
    assert {answer[0] for answer in answers} == {digest}
    assert num_prunable == sum(tensor.numel for tensor in choice.tensors)
    assert sum(counts) == round(0.9 * num_prunable)
    in_experts = [
        count for count, tensor in zip(counts, choice.tensors, strict=True) if len(tensor.shape) == 3
    ]
    assert len(in_experts) == 4
    assert all(in_experts)

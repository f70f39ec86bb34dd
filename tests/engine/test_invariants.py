"""The invariants of pruning inside ZeRO, at every stage, precision and number of ranks."""

from pathlib import Path

import pytest
import torch

from dsprune.masks.bits import pack
from dsprune.masks.mask_set import MaskSet
from dsprune.model.prunable import choose_weights
from dsprune.model.shard import Shard
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Optimizer
from dsprune.selection.groups import make_groups
from dsprune.testing.engines import ds_config, make_recipe
from dsprune.testing.methods import select_dense
from dsprune.testing.pool import RankPool
from dsprune.testing.tiny import TinyModel
from tests.engine import scenarios

STAGES = pytest.mark.parametrize("stage", [0, 1, 2, 3])
CELLS = [
    (world, stage, precision)
    for world in (1, 2, 3, 4)
    for stage in (0, 1, 2, 3)
    for number, precision in enumerate(("fp32", "bf16"))
    if world < 3 or (world + stage + number) % 2
]
"""Numbers of ranks, stages and precisions: all on one and two ranks, half of them on three and four."""

RESUMED = [
    (world, stage, ("bf16", "fp32")[(world + stage) % 2]) for world in (1, 2, 3, 4) for stage in (0, 1, 2, 3)
]
"""Every stage on every number of ranks, and either of them in both precisions."""


def digest_of_first_update(precision: str) -> int:
    """The digest of the mask that a single process selects from the initial weights, rounded like in the run."""
    model = TinyModel()
    tensors = choose_weights(model).tensors
    weights = dict(model.named_parameters())
    dtype = scenarios.DTYPES[precision]
    scores = [weights[tensor.name].detach().to(dtype).double().abs().view(-1) for tensor in tensors]
    dense = [torch.ones(tensor.numel, dtype=torch.bool) for tensor in tensors]
    masks = MaskSet([Shard(tensor, 0, tensor.numel) for tensor in tensors])
    groups = make_groups(tensors, [0.5] * len(tensors))
    masks.replace([pack(mask) for mask in select_dense(scores, dense, groups)])
    return masks.digest(Comm())


@pytest.mark.parametrize(("ranks", "stage", "precision"), CELLS, indirect=["ranks"])
def test_every_step_keeps_every_invariant(ranks: RankPool, stage: int, precision: str) -> None:
    answers = ranks.run(
        ranks.size, scenarios.check_invariants, ds_config(stage, precision), make_recipe(precision)
    )
    digests = {digest for digest, _ in answers}
    assert digests == {digest_of_first_update(precision)}, "the mask depends on how the weights are sharded"
    counts = answers[0][1]
    assert [sum(counts[step]) for step in (0, -1)] == [round(0.5 * 630), round(0.9 * 630)]


@STAGES
def test_fp16_keeps_every_invariant_over_skipped_steps(two_ranks: RankPool, stage: int) -> None:
    answers = two_ranks.run(2, scenarios.check_invariants, ds_config(stage, "fp16"), make_recipe("fp16"))
    counts = answers[0][1]
    assert {digest for digest, _ in answers} == {digest_of_first_update("fp16")}
    assert [sum(counts[step]) for step in (0, -1)] == [round(0.5 * 630), round(0.9 * 630)]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_resuming_in_fp16_equals_not_stopping(two_ranks: RankPool, stage: int, tmp_path: Path) -> None:
    two_ranks.run(2, scenarios.check_resume, ds_config(stage, "fp16"), make_recipe("fp16"), str(tmp_path))


SGD = {"optimizer": {"type": "SGD", "params": {"lr": "auto", "weight_decay": "auto"}}}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_in_fp16_is_as_long_at_every_stage(two_ranks: RankPool, accumulation: int) -> None:
    recipe = make_recipe("fp16", start=4, updates=2)
    recipe = recipe.model_copy(update={"optimizer": Optimizer(type="SGD"), "gradient_clipping": 0.0})
    changes = SGD | {"gradient_accumulation_steps": accumulation}
    changes |= {"fp16": {"enabled": "auto", "initial_scale_power": 8}}
    expected, *others = (
        two_ranks.run(2, scenarios.masters_after_a_step, ds_config(stage, **changes), recipe)[0]
        for stage in (1, 0, 2, 3)
    )
    for found in others:
        for tensor, values in zip(expected, found, strict=True):
            torch.testing.assert_close(values, tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("ranks", "stage", "precision"), RESUMED, indirect=["ranks"])
def test_resuming_equals_not_stopping(ranks: RankPool, stage: int, precision: str, tmp_path: Path) -> None:
    config, recipe = ds_config(stage, precision), make_recipe(precision)
    ranks.run(ranks.size, scenarios.check_resume, config, recipe, str(tmp_path))


@pytest.mark.parametrize(
    ("stage", "precision", "accumulation"),
    [
        *((0, "fp32", 1), (0, "bf16", 2), (1, "fp32", 2), (2, "fp32", 1), (2, "bf16", 2)),
        *((3, "fp32", 1), (3, "fp32", 2)),
    ],
)
def test_pruned_weights_do_not_count_in_the_gradient_norm(
    two_ranks: RankPool, stage: int, precision: str, accumulation: int
) -> None:
    config = ds_config(stage, precision, gradient_accumulation_steps=accumulation)
    tolerance = 1e-5 if precision == "fp32" else 1e-2
    for norms in two_ranks.run(2, scenarios.check_gradient_norm, config, make_recipe(precision)):
        for clipped_by, without_pruned in norms:
            assert clipped_by == pytest.approx(without_pruned, rel=tolerance)

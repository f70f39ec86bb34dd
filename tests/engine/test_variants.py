"""The same invariants with other optimizers, offload, accumulation, scopes, targets and methods."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.accelerator import get_accelerator

from dsprune.checkpoint.audit import audit_folder
from dsprune.masks.manifest import read_manifest
from dsprune.testing.engines import STEPS, ds_config, make_recipe
from dsprune.testing.pool import RankPool
from tests.engine import accelerated, patterning, scenarios

OFFLOAD = {"device": "cpu", "pin_memory": False}


def zero(stage: int, **settings: Any) -> dict[str, Any]:
    return {"zero_optimization": {"stage": stage, **settings}}


def adamw(**params: Any) -> dict[str, Any]:
    return {"optimizer": {"type": "AdamW", "params": {"lr": "auto", "weight_decay": "auto", **params}}}


SETTINGS: dict[str, dict[str, Any]] = {
    "accumulation": ds_config(2, gradient_accumulation_steps=2),
    "stage 3 accumulation": ds_config(3, gradient_accumulation_steps=3),
    "fused adam": ds_config(1, **adamw(torch_adam=True, fused=True)),
    "deepspeed's fused adam": ds_config(2, **adamw()),
    "stage 0 fused adam": ds_config(0, **adamw(torch_adam=True, fused=True)),
    "stage 0 bf16 deepspeed's fused adam": ds_config(0, "bf16", **adamw()),
    "offload": ds_config(2, **zero(2, offload_optimizer=OFFLOAD), **adamw()),
    "stage 1 offload": ds_config(1, **zero(1, offload_optimizer=OFFLOAD), **adamw()),
    "stage 3 offload": ds_config(3, **zero(3, offload_optimizer=OFFLOAD), **adamw()),
    "stage 3 all offload": ds_config(
        3, **zero(3, offload_optimizer=OFFLOAD, offload_param=OFFLOAD), **adamw()
    ),
    "offload accumulation": ds_config(
        2, **zero(2, offload_optimizer=OFFLOAD), **adamw(), gradient_accumulation_steps=2
    ),
    "fp32 accumulation": ds_config(2, "bf16", data_types={"grad_accum_dtype": "fp32"}),
    "overlap": ds_config(2, **zero(2, overlap_comm=True, contiguous_gradients=True)),
    "small buckets": ds_config(1, **zero(1, reduce_bucket_size=50)),
    "sub-groups": ds_config(3, **zero(3, sub_group_size=100)),
    "nothing persistent": ds_config(3, **zero(3, stage3_param_persistence_threshold=0)),
    "no clipping": ds_config(2),
    "sgd": ds_config(2, optimizer={"type": "SGD", "params": {"lr": "auto", "momentum": 0.9}}),
}


@pytest.fixture(scope="module", autouse=True)
def fused_adam() -> None:
    """Compile DeepSpeed's FusedAdam before the ranks start: two that compile at once can collide."""
    get_accelerator().create_op_builder("FusedAdamBuilder").load(verbose=False)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_prunes_under_this_deepspeed_setting(two_ranks: RankPool, name: str) -> None:
    config = SETTINGS[name]
    recipe = make_recipe("bf16" if "bf16" in config else "fp32")
    if name == "no clipping":
        recipe = recipe.model_copy(update={"gradient_clipping": 0.0})
    (_, counts), _ = two_ranks.run(2, scenarios.check_invariants, config, recipe)
    assert sum(counts[-1]) == round(0.9 * 630)


@pytest.mark.parametrize("name", ["offload", "stage 3 offload", "offload accumulation"])
def test_the_norm_of_offloaded_gradients_leaves_pruned_weights_out(two_ranks: RankPool, name: str) -> None:
    for norms in two_ranks.run(2, scenarios.check_gradient_norm, SETTINGS[name], make_recipe()):
        for clipped_by, without_pruned in norms:
            assert clipped_by == pytest.approx(without_pruned, rel=1e-5)


@pytest.mark.parametrize(
    "name", ["offload", "stage 3 offload", "deepspeed's fused adam", "stage 0 bf16 deepspeed's fused adam"]
)
def test_resuming_with_deepspeeds_adam_on_a_cpu_equals_not_stopping(
    two_ranks: RankPool, name: str, tmp_path: Path
) -> None:
    config = SETTINGS[name]
    recipe = make_recipe("bf16" if "bf16" in config else "fp32")
    two_ranks.run(2, scenarios.check_resume, config, recipe, str(tmp_path))


@pytest.mark.parametrize("method", ["snip", "obert"])
def test_a_rank_may_own_no_prunable_weight(two_ranks: RankPool, method: str, tmp_path: Path) -> None:
    recipe = make_recipe(method=method, only=["blocks.2.down.weight"])
    two_ranks.run(2, scenarios.check_resume, ds_config(2), recipe, str(tmp_path))


@pytest.mark.parametrize("optimizer", ["torch", "fused"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_in_16_bits_at_stage_0_is_that_at_stage_2(precision: str, optimizer: str) -> None:
    """DeepSpeed makes the moments of stage 0 before the first step, at which the method reads the gradient."""
    recipe = make_recipe(precision, method="fisher", start=0)
    recipe = recipe.model_copy(update={"gradient_clipping": 0.0})
    changes = adamw(torch_adam=True, fused=optimizer == "fused")
    if precision == "fp16":
        changes |= {"fp16": {"enabled": True, "initial_scale_power": 8}}
    with RankPool(1) as one_rank:
        (expected, found) = (
            one_rank.run(1, scenarios.masters_at_the_end, ds_config(stage, precision, **changes), recipe)[0]
            for stage in (2, 0)
        )
    assert all(map(torch.equal, found, expected))


def test_uniform_scope_prunes_every_tensor_alike(two_ranks: RankPool) -> None:
    (_, counts), _ = two_ranks.run(2, scenarios.check_invariants, ds_config(3), make_recipe(scope="uniform"))
    assert counts[-1] == [round(0.9 * 105)] * 6


def test_normalized_scope_has_the_exact_count_and_one_mask_at_every_stage(two_ranks: RankPool) -> None:
    recipe = make_recipe(scope="normalized")
    answers = [
        two_ranks.run(2, scenarios.check_invariants, ds_config(stage), recipe)[0] for stage in (0, 1, 2, 3)
    ]
    assert len({digest for digest, _ in answers}) == 1
    assert {sum(counts[-1]) for _, counts in answers} == {round(0.9 * 630)}


def test_an_accelerator_masks_in_one_launch_a_step_and_selects_in_few(two_ranks: RankPool) -> None:
    updates = 2  # kernels are slow in the interpreter
    recipe = make_recipe(method="fisher", start=1, updates=updates)
    (wanted, _), _ = two_ranks.run(2, scenarios.check_invariants, ds_config(2), recipe)
    for stage in (0, 2, 3):  # stage 1 has the layout of stage 2
        for digest, launches in two_ranks.run(2, accelerated.check_invariants, ds_config(stage), recipe):
            assert digest == wanted
            assert launches["mask_kernel"] == STEPS + updates
            assert launches["sample_kernel"] == updates
            assert launches["count_kernel"] <= 4 * updates
            assert updates <= launches["settle_kernel"] <= 2 * updates


def test_patterns_have_targets_of_their_own(two_ranks: RankPool) -> None:
    recipe = make_recipe(
        include=["embed.weight"], exclude=["blocks.2.*"], sparsities={"embed.weight": 0.3, "*.up.weight": 0.6}
    )
    (_, counts), _ = two_ranks.run(2, scenarios.check_invariants, ds_config(2), recipe)
    embed, up_0, down_0, up_1, down_1 = counts[-1]
    assert embed == round(0.3 * 77)
    assert up_0 + up_1 == round(0.6 * 210)
    assert down_0 + down_1 == round(0.9 * 210)


def test_random_pruning_has_the_same_mask_at_every_stage(two_ranks: RankPool) -> None:
    digests = {
        two_ranks.run(2, scenarios.digest_of_random, ds_config(stage), make_recipe(method="random"))[0]
        for stage in (0, 1, 2, 3)
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    "config",
    [*(ds_config(stage) for stage in (0, 1, 2, 3)), ds_config(2, "bf16"), SETTINGS["stage 3 offload"]],
    ids=["0", "1", "2", "3", "2 bf16", "3 offload"],
)
def test_fisher_pruning_selects_by_weight_and_second_moment(
    two_ranks: RankPool, config: dict[str, Any]
) -> None:
    recipe = make_recipe("bf16" if "bf16" in config else "fp32", method="fisher", start=1)
    (_, counts), _ = two_ranks.run(2, scenarios.check_invariants, config, recipe)
    assert sum(counts[-1]) == round(0.9 * 630)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_an_update_on_a_skipped_step_comes_again(two_ranks: RankPool, stage: int) -> None:
    config = ds_config(stage, "bf16", bf16={"enabled": True, "check_grad_overflow": True})
    two_ranks.run(2, scenarios.check_skipped_update, config, make_recipe("bf16"))


def test_deepspeeds_own_monitor_goes_on(two_ranks: RankPool, tmp_path: Path) -> None:
    monitor = {"csv_monitor": {"enabled": True, "output_path": str(tmp_path), "job_name": "job"}}
    two_ranks.run(2, scenarios.check_invariants, ds_config(2, **monitor), make_recipe())
    rates = (tmp_path / "job" / "Train_Samples_lr.csv").read_text().splitlines()
    assert len(rates) == 1 + STEPS


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_deepspeed_saves_the_sparse_model_itself(two_ranks: RankPool, stage: int, tmp_path: Path) -> None:
    config = ds_config(stage, **zero(stage, stage3_gather_16bit_weights_on_model_save=True))
    two_ranks.run(2, scenarios.save_16bit_model, config, make_recipe(), str(tmp_path))


@pytest.mark.parametrize(
    ("stage", "zeros", "other", "settings"),
    [
        (0, 384, "1x2", {"pattern": "2:4", "sparsity": 0.5, "first": 0.2, "scope": "uniform"}),
        (1, 692, "1x2", {"pattern": "4x1"}),
        (2, 384, "1x2", {"pattern": "2:4", "sparsity": 0.5, "first": 0.2, "method": "fisher", "start": 3}),
        (3, 688, "4x8", {"pattern": "2x8", "method": "fisher", "start": 3}),
        (3, 648, "2x1", {"pattern": "rows", "sparsity": 0.85}),
        (1, 600, "uniform", {"scope": "row", "sparsity": 0.8}),
        (3, 600, "1x2", {"scope": "row", "sparsity": 0.8, "method": "fisher", "start": 3}),
    ],
)
def test_tiles_are_those_of_one_process_and_are_audited(
    two_ranks: RankPool, stage: int, zeros: int, other: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    recipe, pattern = make_recipe(**settings), settings.get("pattern", "unstructured")
    counts = two_ranks.run(2, patterning.check_run, ds_config(stage), recipe, str(tmp_path))
    assert counts == [zeros] * 2
    audit = audit_folder(tmp_path / "saved")
    assert (audit.findings, sum(audit.counts)) == ((), zeros)
    manifest = read_manifest(tmp_path / "saved")
    assert (manifest.pattern, manifest.scope) == (pattern, settings.get("scope", "global"))
    field, was = ("scope", "row") if other == "uniform" else ("pattern", pattern)
    changed = make_recipe(**settings | {field: other})
    messages = two_ranks.run(2, patterning.errors_of_loading, ds_config(stage), changed, str(tmp_path))
    for message, of_model in messages:
        assert f"its {field} is {was}, this run's pruning.{field} is {other}" in message
        wanted = rf"pruning.pattern: value {other}: .*saved: blocks.*: \d+ of its tiles"
        assert re.search(
            wanted if field == "pattern" else r"sparsity 0.7500 at the start, but only", of_model
        )

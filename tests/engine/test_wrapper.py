"""`PruningEngine` around an existing engine, `initialize`, and what both refuse."""

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from dsprune.checkpoint.deepspeed_files import CheckpointFiles
from dsprune.checkpoint.tag_files import TAG_MANIFEST
from dsprune.checkpoint.tags import complete_tags, invalidate_tag
from dsprune.commands.audit import audit
from dsprune.errors import UserError
from dsprune.masks.manifest import MANIFEST
from dsprune.testing.engines import ds_config, make_recipe
from dsprune.testing.pool import RankPool
from tests.engine import scenarios, wrapping


@pytest.fixture(scope="module")
def kept(two_ranks: RankPool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint at stage 2, which no test changes."""
    folder = tmp_path_factory.mktemp("kept")
    two_ranks.run(2, scenarios.save_checkpoint, ds_config(2), make_recipe(), str(folder))
    return folder


@pytest.fixture
def saved(kept: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(kept, tmp_path / "saved"))


def test_an_engine_that_someone_else_made_reaches_the_target(one_rank: RankPool) -> None:
    one_rank.run(1, wrapping.wrap_and_train)


def test_the_wrapper_hands_on_everything_else(one_rank: RankPool) -> None:
    one_rank.run(1, wrapping.everything_else_is_the_engines)


def test_a_recipe_without_pruning_trains_densely(one_rank: RankPool) -> None:
    one_rank.run(1, wrapping.dense_recipe_trains_densely)


@pytest.mark.parametrize(("drop_last", "steps"), [(False, 5), (True, 4)])  # 50 examples in batches of 12
def test_epochs_are_counted_as_deepspeeds_loader_counts_them(
    two_ranks: RankPool, drop_last: bool, steps: int
) -> None:
    for counted, real in two_ranks.run(2, wrapping.epochs_are_counted_on_the_training_data, drop_last):
        assert counted == real == steps


def test_an_engine_that_has_trained_past_the_last_mask_update_is_refused(one_rank: RankPool) -> None:
    [error] = one_rank.run(1, wrapping.error_after_steps)
    assert error.startswith("engine: it is at step 8 with a sparsity of 0.0000, ")
    assert "0.9 is at step 6: make it prune before its first step" in error


@pytest.mark.parametrize("stage", [0, 2])
def test_an_engine_with_a_part_of_the_ranks_is_refused(two_ranks: RankPool, stage: int) -> None:
    for error in two_ranks.run(2, wrapping.error_of_a_mesh, stage):
        assert error.startswith(
            "engine: its 2 ranks are not one data-parallel group: model, tensor and sequence"
        )


def test_replicas_that_differ_end_the_run(two_ranks: RankPool) -> None:
    for error in two_ranks.run(2, wrapping.error_without_a_reduction):
        assert error.startswith(
            "blocks.0.up.weight: its weights differ between the ranks: DeepSpeed averages"
        )


def test_factors_on_the_learning_rate_are_the_same_at_every_stage(two_ranks: RankPool) -> None:
    of_stages = [two_ranks.run(2, wrapping.factors_on_the_learning_rate, stage)[0] for stage in (0, 1, 2, 3)]
    assert all(masks == of_stages[0] for masks in of_stages)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("a scheduler", r"^learning_rate: the engine has a WarmupLR of its own: make it without a scheduler$"),
        ("BF16_Optimizer", r"^ds_config: data_types.grad_accum_dtype=fp32 with bf16 at ZeRO stage 1 .*stage=2"),
        ("an optimizer of its own kind", r"^optimizer: Rprop is not supported \(not element-wise\): use AdamW$"),
        (
            "an AdamW that steps otherwise",
            r"^optimizer: _SteppingAdamW is not supported \(its step\(\) is not that of AdamW and may not",
        ),
        ("an AdamW that steps as AdamW", "^no error$"),
        ("a setting that is refused", r"^ds_config: zero_optimization.round_robin_gradients=True is not supported"),
        (
            "one learning rate, and factors",
            r"^learning_rate.scale: every parameter group of the engine has the same rate: give each of your",
        ),
        ("a new head", r"^model.new_head: true: "),
        ("no loader, epochs", r"budget.epochs \(2.0\): counted in epochs, and the steps in one are not known"),
    ],
)  # fmt: skip
def test_an_engine_that_cannot_prune_is_refused(one_rank: RankPool, what: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        raise UserError(one_rank.run(1, wrapping.error_of_wrapping, what)[0])


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("an engine as module", "initialize: model is a DeepSpeedEngine: give the module, engine.module"),
        ("a module as engine", "engine: a TinyModel, not a DeepSpeedEngine: give what deepspeed.initialize returns"),
        ("a pruning engine as engine", "engine: a PruningEngine: it prunes already"),
    ],
)  # fmt: skip
def test_what_is_no_module_or_no_engine_is_refused(one_rank: RankPool, what: str, says: str) -> None:
    assert says in one_rank.run(1, wrapping.error_of_a_model, what)[0]


@pytest.mark.parametrize("way", ["initialize", "PruningEngine", "pruning"])
def test_a_script_says_what_becomes_of_the_zeros_of_its_model(one_rank: RankPool, way: str) -> None:
    [error] = one_rank.run(1, wrapping.start_from_zeros, way, None)
    assert str(error).startswith(
        "model: 50.5 % of its prunable weights are zero, and it has no masks: masks_from="
    )
    [(sparsity, zeros)] = one_rank.run(1, wrapping.start_from_zeros, way, "zeros")
    assert sparsity == zeros == 318 / 630
    [(sparsity, zeros)] = one_rank.run(1, wrapping.start_from_zeros, way, "none")
    assert sparsity == 0.0
    assert zeros < 0.2, "those without a gradient"


@pytest.mark.parametrize("way", ["initialize", "PruningEngine", "pruning"])
def test_an_unknown_value_of_masks_from_is_refused(one_rank: RankPool, way: str) -> None:
    [error] = one_rank.run(1, wrapping.error_of_masks_from, way, "Zeros")
    assert error == "masks_from='Zeros': unknown: give 'zeros', 'none', or None to refuse zeros without masks"


def test_a_sparse_start_from_a_folder_without_masks_is_refused(one_rank: RankPool, tmp_path: Path) -> None:
    [error] = one_rank.run(1, wrapping.error_of_starting_from, tmp_path / "typo")
    assert error.startswith(f"{tmp_path / 'typo'}: no dsprune.json, so no masks")


def test_a_model_replaces_nothing_but_a_model(two_ranks: RankPool, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    two_ranks.run(2, wrapping.save_over_other_files, folder)
    for name in ("notes.txt", "model-best.safetensors"):
        assert (folder / name).read_text() == "mine"
    assert complete_tags(folder) == [folder / "checkpoint-1"]
    assert {path.name for path in folder.glob("m*-of-*")} == {
        f"masks-0000{rank}-of-00002.safetensors" for rank in range(2)
    }
    audit(folder, Console(file=io.StringIO()))


def test_a_model_that_cannot_be_saved_ends_every_rank(two_ranks: RankPool, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for below_a_file, tokenizer in two_ranks.run(
        2, wrapping.errors_of_a_model_that_cannot_be_saved, tmp_path / "file"
    ):
        assert f"{tmp_path / 'file'}" in below_a_file
        assert tokenizer.startswith("save_model: tokenizer is a str: give the tokenizer object")
    assert not (tmp_path / "model").exists()


def test_matrices_that_begin_at_zero_are_trained_and_said(one_rank: RankPool) -> None:
    [(sparsity, said)] = one_rank.run(1, wrapping.messages_of_matrices_that_begin_at_zero, None)
    assert sparsity == 0.0
    assert "3 matrices, such as blocks.0.down.weight, are all zero: trained from zero" in said
    [(sparsity, said)] = one_rank.run(1, wrapping.messages_of_matrices_that_begin_at_zero, "zeros")
    assert sparsity == 0.5
    assert "model: 3 matrices, such as blocks.0.down.weight, are all zero, and masked" in said


def test_matrices_that_lose_all_weights_are_said(two_ranks: RankPool) -> None:
    said, others = two_ranks.run(2, wrapping.messages_of_a_block_that_trains_late, "fisher")
    assert "at step 2 leaves no weight of 2 matrices, such as blocks.0.up.weight: " in said
    assert "leaves no" not in others, "only the first rank prints"
    said, _ = two_ranks.run(2, wrapping.messages_of_a_block_that_trains_late, "magnitude")
    assert "at step 2 leaves no" not in said


def test_a_dense_recipe_of_a_script_would_lose_the_zeros(one_rank: RankPool) -> None:
    [error] = one_rank.run(1, wrapping.start_from_zeros, "initialize", None, True)
    assert "zero, and the recipe has no section pruning: pruning={sparsity: 0.5" in error
    assert "curve: one-shot, start: 0} with masks_from=zeros" in error


def test_a_checkpoint_without_masks_is_refused(two_ranks: RankPool, saved: Path) -> None:
    config, recipe = ds_config(2), make_recipe()
    (saved / "last" / MANIFEST).unlink()
    invalidate_tag(saved / "last")
    for message in two_ranks.run(2, scenarios.error_of_loading, config, recipe, str(saved)):
        assert "no dsprune.json, so no masks" in message


@pytest.mark.parametrize(("found", "says"), [(["first"], "name one of first"), ([], "that holds the tags")])
def test_a_tag_that_does_not_exist_is_refused(
    two_ranks: RankPool, tmp_path: Path, found: list[str], says: str
) -> None:
    for name in found:
        (tmp_path / name).mkdir()
    for message in two_ranks.run(2, scenarios.error_of_loading, ds_config(2), make_recipe(), str(tmp_path)):
        assert f"{tmp_path / 'last'}: no such checkpoint: " in message
        assert says in message


def test_masks_of_other_weights_are_refused(two_ranks: RankPool, saved: Path, tmp_path: Path) -> None:
    config, other = ds_config(2), tmp_path / "other"
    two_ranks.run(2, scenarios.save_checkpoint, config, make_recipe(method="random"), str(other))
    for file in [*(other / "last").glob("masks-*"), other / "last" / MANIFEST]:
        (saved / "last" / file.name).write_bytes(file.read_bytes())
    invalidate_tag(saved / "last")
    messages = two_ranks.run(2, scenarios.error_of_loading, config, make_recipe(), str(saved))
    assert any("pruned entries of the master weights are zero" in message for message in messages)


def test_another_timetable_is_refused(two_ranks: RankPool, saved: Path) -> None:
    config = ds_config(2)
    other = make_recipe(updates=3)
    for message in two_ranks.run(2, scenarios.error_of_loading, config, other, str(saved)):
        assert "its timetable has updates=" in message
        assert message.endswith("resume with the recipe that it was written with")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("step", 7, "masks of step 7, weights of step 8"),
        ("digest", 1, "do not have the digest in the manifest"),
    ],
)
def test_masks_that_do_not_fit_the_manifest_are_refused(
    two_ranks: RankPool, saved: Path, key: str, value: int, says: str
) -> None:
    manifest = json.loads((saved / "last" / MANIFEST).read_text())
    (saved / "last" / MANIFEST).write_text(json.dumps(manifest | {key: value}))
    invalidate_tag(saved / "last")
    for message in two_ranks.run(2, scenarios.error_of_loading, ds_config(2), make_recipe(), str(saved)):
        assert says in message


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("rank-00001-of-00002.safetensors", None, "rank-00001-of-00002.safetensors: missing, though checkpoint.json"),
        (MANIFEST, b"{}", "dsprune.json: damaged, its SHA-256 is not the one in checkpoint.json"),
        (TAG_MANIFEST, b"{", "checkpoint.json: not a manifest of format 1"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_which_a_file_changed_is_refused(
    two_ranks: RankPool, saved: Path, file: str, content: bytes | None, says: str
) -> None:
    config, recipe = ds_config(2), make_recipe()
    (saved / "last" / file).unlink()
    if content is not None:
        (saved / "last" / file).write_bytes(content)
    for message in two_ranks.run(2, scenarios.error_of_loading, config, recipe, str(saved)):
        assert says in message


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no DeepSpeed checkpoint: give the folder of a tag"):
        CheckpointFiles(tmp_path)


def test_a_damaged_checkpoint_file_is_refused(saved: Path) -> None:
    file = next((saved / "last").glob("*rank_1_*optim_states.pt"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=rf"{file.name}: cannot be read .*use another checkpoint"):
        CheckpointFiles(saved / "last")


def test_an_unknown_parameter_is_refused(two_ranks: RankPool, tmp_path: Path) -> None:
    two_ranks.run(2, scenarios.save_checkpoint, ds_config(3), make_recipe(), str(tmp_path))
    with pytest.raises(
        UserError, match=r"no parameter blocks\.9.up.weight: the masks are of another checkpoint"
    ):
        CheckpointFiles(tmp_path / "last").views("blocks.9.up.weight")


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_betas_move_with_the_learning_rate(two_ranks: RankPool, stage: int, tmp_path: Path) -> None:
    two_ranks.run(2, wrapping.betas_move_with_the_learning_rate, stage, str(tmp_path))

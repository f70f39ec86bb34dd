"""`initialize` accepts DeepSpeed's arguments, refuses unsupported ones, and loads checkpoints of DeepSpeed."""

import io
import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import BertForSequenceClassification

from dsprune.checkpoint.audit import audit_all, audit_folder
from dsprune.commands.export import export
from dsprune.commands.status import status
from dsprune.errors import UserError
from dsprune.testing.engines import BATCH, ds_config
from dsprune.testing.pool import RankPool
from dsprune.testing.tiny import TinyModel
from dsprune.zero.config import load_ds_config
from tests.engine import initializing


@pytest.mark.parametrize("what", initializing.DATA)
def test_these_training_data_reach_the_target(two_ranks: RankPool, what: str) -> None:
    assert two_ranks.run(2, initializing.train_on, what) == 2 * [(0.9, 8)]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_compiled_model_is_pruned_the_same(two_ranks: RankPool, stage: int) -> None:
    ways = ["nothing", "model", "engine", *(["wrapper"] if stage < 3 else [])]
    [expected, *others] = [two_ranks.run(2, initializing.train_compiled, stage, what) for what in ways]
    for weights in others:
        assert all(map(torch.equal, weights[0], expected[0]))


@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_share_a_stream_evenly(two_ranks: RankPool, drop_last: bool) -> None:
    first, second = two_ranks.run(2, initializing.first_pass_of_a_stream, drop_last)
    count = BATCH * (initializing.EXAMPLES // BATCH) if drop_last else initializing.EXAMPLES
    examples = [initializing.Examples()[i]["tokens"].tolist() for i in range(count)]
    assert first == examples[0::2]
    assert second == examples[1::2]


def test_an_epoch_of_a_stream_with_a_length_is_one_pass(two_ranks: RankPool) -> None:
    assert two_ranks.run(2, initializing.steps_of_a_counted_stream) == [(2, 2), (2, 2)]


@pytest.mark.parametrize("how", ["args.deepspeed_config", "config_params", "path", "name of a path"])
def test_the_config_is_found_in(two_ranks: RankPool, how: str, tmp_path: Path) -> None:
    (tmp_path / "ds_config.json").write_text(json.dumps(ds_config(1)))
    assert two_ranks.run(2, initializing.stage_of, str(tmp_path), how) == [1, 1]


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("a loader", "^initialize: training_data is a DataLoader: give its dataset"),
        ("a generator", "^initialize: training_data is a generator: give a dataset"),
        ("a file name", "^initialize: training_data is a str: give a dataset"),
        ("a scheduler", "^initialize: lr_scheduler=ConstantLR: the recipe's learning_rate owns the schedule"),
        ("another rate", r"learning_rate.peak=0.02 in the recipe, 0.001 in the engine"),
        ("a dense rate", r"peak=0.00\d+ \(learning_rate.dense=0.001\) in the recipe, 0.001 in the engine"),
        ("a stream in epochs", r"^budget.epochs \(4.0\): .*the steps in one are not known: count in steps"),
        ("a mesh", r"^initialize: mesh_param=\(1, 2\): sequence parallelism is not supported"),
        ("two configs", "^initialize: 2 ds_configs are given: give one of"),
        ("no config", "^initialize: 0 ds_configs are given: give one of"),
        ("no model", "^initialize: model is a NoneType: give the module to train"),
        ("a class", "^initialize: model is a type: give the module to train"),
        ("a list", "^recipe: a list: give a Recipe"),
        ("no recipe", "^recipe: a NoneType: give a Recipe"),
        ("the name of a function", "^initialize: collate_fn is a str: give a function"),
        ("a text for steps", "^steps_per_epoch='4': must be an int"),
        ("no steps in an epoch", "^steps_per_epoch=0: must be an int, 1 or more"),
        ("compression", r"^ds_config: compression_training: .*pruning=\{sparsity: 0.75\} for dense_ratio=0.25"),
        ("divided gradients", "^ds_config: DeepSpeed does not start with it: gradient_predivide_factor != 1.0"),
        ("fewer layers", r"^model.layers: \[0, 1\]: 2 layers, but the script's model has 3"),
        ("two models", r"^optimizer: 21 of its parameters are not in the model, and DeepSpeed does not average"),
        ("another optimizer", r"optimizer.type=SGD in the recipe, AdamW in the engine"),
        ("fp32 gradients at stage 0", r"ds_config: DeepSpeed does not start with it: unsupported mix of"),
        ("no gradient norm", r"ds_config: DeepSpeed does not start with it: .*compute_grad_norm=false does not"),
        ("some parameters", r"^optimizer: blocks.1.up.weight is not among its parameters \(2 such weights\)"),
        ("some parameters at stage 2", r"^optimizer: blocks.1.up.weight is not among its parameters"),
        ("some parameters at stage 3", r"^optimizer: blocks.1.up.weight is not among its parameters"),
        (
            "parameters in bf16",
            r"^precision: fp32 .*, and 21 of 21 .* embed.weight, torch.bfloat16: call model.float\(\)",
        ),
        ("a wrapped module", "^model: it is in a DataParallel, .* model.module"),
        ("a head in fp64", "^precision: fp32 .*, and 2 of 21 .* head.weight, torch.float64"),
        ("an adapter", "^model: blocks.0.up has an adapter of PEFT: prune the merged model"),
        ("a compiled module", "^model: blocks.1 is wrapped by torch.compile, .* ZeRO stage 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_initialized_is_refused(two_ranks: RankPool, what: str, says: str) -> None:
    for message in two_ranks.run(2, initializing.error_of_initialize, what):
        with pytest.raises(UserError, match=says):
            raise UserError(message)


@pytest.mark.parametrize(
    ("used", "says"),
    [
        (None, r"^distillation.teacher=t: dsprune.DistillationLoss was not called"),
        ({"temperature": 4}, r"^distillation.temperature: 1.0 in the recipe of the engine and 4.0 in that"),
        (
            {"hardness": 1},
            r"^distillation.hardness: \{'first': 0.5, .*\} in the recipe of the engine and 1.0 in",
        ),
        ({"teacher": "a copy of it"}, "^no error"),
    ],
)
def test_a_loop_distils_as_the_recipe_of_its_engine_says(
    two_ranks: RankPool, used: dict[str, Any] | None, says: str
) -> None:
    for message in two_ranks.run(2, initializing.first_step_with_a_teacher, used):
        with pytest.raises(UserError, match=says):
            raise UserError(message)


@pytest.mark.parametrize("flag", [False, True])
def test_a_universal_checkpoint_is_refused(two_ranks: RankPool, tmp_path: Path, flag: bool) -> None:
    (tmp_path / "universal" / "zero").mkdir(parents=True)
    found = two_ranks.run(2, initializing.error_of_a_universal_checkpoint, str(tmp_path), flag)
    named = (
        "ds_config: checkpoint.load_universal=True"
        if flag
        else f"{tmp_path / 'universal'}: a universal checkpoint"
    )
    assert all(message.startswith(f"{named} is not supported, ") for message in found)


def test_it_prunes_with_an_optimizer_of_the_caller(two_ranks: RankPool) -> None:
    assert two_ranks.run(2, initializing.train_with_a_client_optimizer) == [0.9, 0.9]


def test_a_peak_that_does_not_scale_with_the_target_is_said_once(two_ranks: RankPool) -> None:
    said = two_ranks.run(2, initializing.said_without_a_peak)
    assert [text.count("the peak learning rate is the optimizer's, 0.02, not scaled") for text in said] == [
        1,
        0,
    ]


@pytest.mark.parametrize("tag", [0, 7, 0.693, Path("epoch-1")])
def test_a_tag_is_anything_that_deepspeed_takes(two_ranks: RankPool, tag: Any, tmp_path: Path) -> None:
    assert two_ranks.run(2, initializing.save_and_load_with, str(tmp_path), tag) == 2 * [(1, 1)]
    assert (tmp_path / str(tag)).is_dir()


def test_ranks_that_save_into_different_folders_are_refused(two_ranks: RankPool, tmp_path: Path) -> None:
    for message in two_ranks.run(2, initializing.error_of_saving_apart, str(tmp_path)):
        assert f"the checkpoint's folder is {tmp_path}/of-1/tag, and {tmp_path}/of-0/tag on rank 0" in message


def test_what_a_script_adds_comes_back_or_is_refused_before_it_is_saved(
    two_ranks: RankPool, tmp_path: Path
) -> None:
    value = Namespace(seed=1)
    assert two_ranks.run(2, initializing.saved_with, str(tmp_path), value) == [value, value]
    for message in two_ranks.run(2, initializing.saved_with, str(tmp_path / "other"), initializing.Stream()):
        assert message.startswith("client_state: mine: a Stream, which could not be read again (it holds ")
    assert not (tmp_path / "other").exists()


def test_a_copy_of_an_engine_is_one(two_ranks: RankPool) -> None:
    assert two_ranks.run(2, initializing.copied) == 2 * [(True, True)]


@pytest.mark.parametrize(
    ("masks_from", "options", "groups", "scheduler", "ends"),
    [
        (None, {}, True, True, r"no dsprune.json, so no masks: .*masks_from=zeros"),
        ("zeros", {}, False, False, r"plain: DeepSpeed cannot load it .*other parameter groups"),
        ("zeros", {}, True, False, (2, 0.9)),
        ("none", {}, True, True, (2, 0.9)),
        ("none", {"load_optimizer_states": False}, False, True, (2, 0.9)),
        ("zeros", {"load_module_only": True}, False, False, (0, 0.9)),
    ],
)
def test_a_checkpoint_of_plain_deepspeed(
    two_ranks: RankPool,
    masks_from: str | None,
    options: dict[str, Any],
    groups: bool,
    scheduler: bool,
    ends: Any,
    tmp_path: Path,
) -> None:
    two_ranks.run(2, initializing.save_plain, str(tmp_path), 2, groups, scheduler)
    for found in two_ranks.run(2, initializing.load_plain, str(tmp_path), 2, masks_from, options):
        if isinstance(ends, str):
            with pytest.raises(UserError, match=ends):
                raise UserError(found)
        else:
            assert found == ends


def test_a_framework_loads_a_plain_checkpoint_as_its_script_asks(two_ranks: RankPool, tmp_path: Path) -> None:
    two_ranks.run(2, initializing.save_plain, str(tmp_path), 2, True, False)
    for masks_from, masked in (("zeros", True), ("none", False)):
        for step, sparsity in two_ranks.run(
            2, initializing.load_plain_in_a_script, str(tmp_path), masks_from
        ):
            assert (step, sparsity > 0) == (2, masked)


@pytest.mark.parametrize("name", ["zero0", "zero1", "zero2", "zero3", "offload"])
def test_adam_with_l2_and_two_rates_trains_as_by_torch(two_ranks: RankPool, name: str) -> None:
    expected = initializing.weights_by_torch(5)
    for found in two_ranks.run(2, initializing.weights_after, load_ds_config(name), 5):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_dense_checkpoint_past_the_last_mask_update_is_refused(two_ranks: RankPool, tmp_path: Path) -> None:
    two_ranks.run(2, initializing.save_plain, str(tmp_path), 2, True, False)
    for message in two_ranks.run(2, initializing.load_plain, str(tmp_path), 2, "none", {}, 1):
        assert (
            "it is at step 2 with a sparsity of 0.0000, and the last mask update to 0.9 is at step 1"
            in message
        )


@pytest.mark.parametrize(
    ("stages", "options", "first"),
    [
        ((0, 0), {"load_module_only": True}, 1),
        ((2, 2), {"load_optimizer_states": False}, 2),
        ((3, 3), {"load_module_only": True}, 1),
        ((3, 3), {"load_optimizer_states": False}, 2),
        ((2, 3), {"load_optimizer_states": False}, 2),
    ],
)
def test_a_checkpoint_is_loaded_in_part(
    two_ranks: RankPool, stages: tuple[int, int], options: dict[str, bool], first: int, tmp_path: Path
) -> None:
    for found in two_ranks.run(2, initializing.load_partly, str(tmp_path), stages, options):
        assert found == (first, 0.8, ["copy", "weight"])


@pytest.mark.parametrize(
    ("options", "ends"),
    [
        ({"custom_load_fn": print}, "custom_load_fn is not called for .* resharded .ZeRO stage 2 -> 3.: leave it out"),
        ({}, "it has a parameter extra.bias and the model has none: .*load_module_strict=False"),
        ({"load_module_strict": False}, "no error"),
    ],
)  # fmt: skip
def test_what_resharding_does_not_do_is_refused(
    two_ranks: RankPool, options: dict[str, Any], ends: str, tmp_path: Path
) -> None:
    for error in two_ranks.run(2, initializing.error_of_loading_more, str(tmp_path), options):
        assert re.search(ends, error)


@pytest.mark.parametrize(
    ("what", "stage"),
    [
        ("a plain module", 0),
        ("a compiled module", 2),
        ("a Hugging Face model", 2),
        ("a frozen module", 2),
        ("a frozen module", 3),
    ],
)
def test_the_checkpoint_of_a_script_is_found_and_exported(
    two_ranks: RankPool, what: str, stage: int, tmp_path: Path
) -> None:
    two_ranks.run(2, initializing.save_checkpoint_and_model, str(tmp_path), what, stage)
    exported, output = tmp_path / "exported", io.StringIO()
    export(tmp_path, None, exported, Console(file=output))
    status([tmp_path], Console(file=output, width=1000))
    assert "states/first: step 1 of 8, sparsity 50.00 %" in output.getvalue()
    assert [audit.folder for audit in audit_all(tmp_path)] == [
        tmp_path / "states" / "first",
        tmp_path / "model",
    ]
    found, expected = (load_file(folder / "model.safetensors") for folder in (exported, tmp_path / "model"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert audit_folder(exported).findings == audit_folder(tmp_path / "model").findings == ()
    if what == "a Hugging Face model":
        model, info = BertForSequenceClassification.from_pretrained(exported, output_loading_info=True)
        assert not info["missing_keys"]
        assert model.config.num_labels == 3
    else:
        assert expected.keys() == TinyModel().state_dict().keys()


def test_what_of_a_script_cannot_be_exported(two_ranks: RankPool, tmp_path: Path) -> None:
    two_ranks.run(2, initializing.save_checkpoint_and_model, str(tmp_path), "a frozen module", 2, True)
    with pytest.raises(UserError, match=r"embed.weight is frozen, and exclude_frozen_parameters has left it"):
        export(tmp_path, None, tmp_path / "exported", Console())
    with pytest.raises(UserError, match=r"^--trimmed: .* is not a run of dsprune train"):
        export(tmp_path, None, tmp_path / "exported", Console(), trimmed=True)

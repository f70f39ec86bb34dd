"""Recipes of SparseML and `compression_training` of DeepSpeed, converted to recipes."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import transformers as hf
import yaml
from torch import nn

from dsprune.commands.cli import run_command
from dsprune.commands.convert.arithmetic import evaluate
from dsprune.commands.convert.convert import Converted, convert_file
from dsprune.commands.convert.patterns import globs_of
from dsprune.commands.convert.pruning import METHODS_OF
from dsprune.commands.convert.rate_pieces import Piece, cut, learning_rate
from dsprune.commands.convert.sparseml import KNOWN
from dsprune.errors import UserError
from dsprune.methods.checks import check_pruning
from dsprune.model.prunable import choose_weights
from dsprune.recipe import Recipe, load_recipe
from dsprune.schedule import recipe_timetable

GRADUAL = """
modifiers:
  - !EpochRangeModifier
    start_epoch: 0
    end_epoch: 12

training_modifiers:
  - !LearningRateFunctionModifier
    start_epoch: 0.0
    end_epoch: 1.0
    lr_func: linear
    init_lr: 8e-5
    final_lr: 8e-6
  - !LearningRateFunctionModifier
    start_epoch: 1.0
    end_epoch: 12.0
    lr_func: cyclic_linear
    cycle_epochs: 3.0
    init_lr: 8e-5
    final_lr: 4e-5

  - !OBSPruningModifier
    params: [
      "re:bert.encoder.layer.*.attention.self.(query|key|value).weight",
      "re:bert.encoder.layer.*.output.dense.weight",
      "re:bert.encoder.layer.*.intermediate.dense.weight",
    ]
    init_sparsity: 0.5
    final_sparsity: 0.9
    start_epoch: 1
    end_epoch: 10
    update_frequency: 3.0
    inter_func: cubic
    global_sparsity: True
    mask_type: unstructured
    num_grads: 512
    damp: 1e-7

distillation_modifiers:
  - !DistillationModifier
     hardness: 1.0
     temperature: 5.5
     distill_output_keys: [start_logits, end_logits]
"""

CARD = """<!-- a licence -->

---
version: 1.1.0
num_epochs: &epochs 8
warmup: 2
rate: 1.5e-4
target: eval(1 - 0.4)

training_modifiers:
  - !EpochRangeModifier
    end_epoch: *epochs
    start_epoch: 0.0
  - !LearningRateFunctionModifier
    start_epoch: 0
    end_epoch: eval(warmup)
    lr_func: linear
    init_lr: 0
    final_lr: eval(rate)
  - !LearningRateFunctionModifier
    start_epoch: eval(warmup)
    end_epoch: eval(num_epochs)
    lr_func: linear
    init_lr: eval(rate)
    final_lr: 0
  - !SetWeightDecayModifier
    weight_decay: 0.0

pruning_modifiers:
  - !GMPruningModifier
    params: [bert.encoder.layer.0.intermediate.dense.weight]
    init_sparsity: 0.0
    final_sparsity: eval(target)
    start_epoch: eval(0.25 * num_epochs)
    end_epoch: eval(num_epochs - 2)
    update_frequency: 1
    leave_enabled: True
  - !GMPruningModifier
    params: [bert.encoder.layer.1.intermediate.dense.weight]
    init_sparsity: 0.0
    final_sparsity: 0.8
    start_epoch: eval(0.25 * num_epochs)
    end_epoch: eval(num_epochs - 2)
    update_frequency: 1
    leave_enabled: True
---
# A card, with modifiers: in its text
"""

TRANSFER = """
training_modifiers:
  - !EpochRangeModifier
    start_epoch: 0
    end_epoch: 8
  - !LearningRateFunctionModifier
      start_epoch: 0
      end_epoch: 8
      lr_func: linear
      init_lr: 1.5e-4
      final_lr: 1.5e-6
pruning_modifiers:
  - !ConstantPruningModifier
    start_epoch: 0
    end_epoch: 8
    params:
      - re:bert.encoder.layer.*.output.dense.weight
"""

COMPRESSION: dict[str, Any] = {
    "train_batch_size": 32,
    "train_micro_batch_size_per_gpu": 8,
    "steps_per_print": 200,
    "fp16": {"enabled": True},
    "gradient_clipping": 0.5,
    "optimizer": {"type": "Adam", "params": {"lr": 1e-3, "betas": [0.8, 0.9], "torch_adam": True}},
    "scheduler": {"type": "WarmupLR", "params": {}},
    "compression_training": {
        "layer_reduction": {
            "enabled": True, "keep_number_layer": 1, "module_name_prefix": "bert.encoder.layer",
            "teacher_layer": [1], "other_module_name": ["bert.pooler"],
        },
        "weight_quantization": {"shared_parameters": {"enabled": True, "rounding": "nearest"}, "different_groups": {}},
        "row_pruning": {"shared_parameters": {"enabled": False, "schedule_offset": 9}, "different_groups": {}},
        "sparse_pruning": {
            "shared_parameters": {"enabled": True, "schedule_offset": 2000, "method": "l1", "colour": "red"},
            "different_groups": {
                "sp1": {"params": {"dense_ratio": 0.4}, "modules": ["attention.self"]},
                "sp2": {"params": {"dense_ratio": 0.1}, "modules": [r"layer.(0|1).output", "intermediate.dense"]},
            },
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def bert() -> nn.Module:
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return hf.BertForQuestionAnswering(hf.BertConfig(**sizes, vocab_size=40))


def converted(folder: Path, text: str, *overrides: str, name: str = "source.yaml") -> Converted:
    (folder / name).write_text(text)
    return convert_file(folder / name, overrides)


def recipe_of(folder: Path, text: str, *overrides: str, name: str = "source.yaml") -> Recipe:
    (folder / "made.yaml").write_text(converted(folder, text, *overrides, name=name).text)
    return load_recipe(str(folder / "made.yaml"))


COMPLETE = "budget.batch=16", "distillation.teacher=T"


def test_the_timetable_is_that_of_the_source(tmp_path: Path) -> None:
    made = recipe_timetable(recipe_of(tmp_path, GRADUAL, *COMPLETE), 100)
    assert [(update.step, round(update.sparsity, 4)) for update in made.updates] == [
        (100 + 300 * i, round(0.5 + 0.4 * (1 - (1 - i / 3) ** 3), 4)) for i in range(4)
    ]
    assert made.total_steps == 1200
    for step in range(1200):
        rate = 8e-5 - step / 100 * 7.2e-5 if step < 100 else 8e-5 - ((step - 100) % 300) / 299 * 4e-5
        if step >= 1000:
            rate = 8e-5 - (step - 1000) / 199 * 4e-5
        assert 8e-5 * made.lr_multiplier(step) == pytest.approx(rate, abs=4e-5 / 199 + 1e-12)


def test_the_weights_are_those_of_the_source(tmp_path: Path, bert: nn.Module) -> None:
    pruning = recipe_of(tmp_path, GRADUAL, *COMPLETE).pruning
    assert (pruning.scope, pruning.sparsity) == ("global", 0.9)
    assert choose_weights(bert, only=pruning.only).tensors == choose_weights(bert).tensors


def test_the_teacher_is_named_as_missing_and_its_loss_is_that_of_the_source(tmp_path: Path) -> None:
    assert {"distillation.teacher", "budget.batch"} == set(converted(tmp_path, GRADUAL).notes.missing)
    distillation = recipe_of(tmp_path, GRADUAL, *COMPLETE).distillation
    assert (distillation.hardness.first, distillation.temperature.first) == (1.0, 5.5)
    default = GRADUAL.replace("     hardness: 1.0\n     temperature: 5.5\n", "")
    distillation = recipe_of(tmp_path, default, *COMPLETE).distillation
    assert (distillation.hardness.first, distillation.temperature.first) == (0.5, 2.0), "SparseML's defaults"


def test_a_recipe_is_incomplete_without_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"budget\.batch: value missing.*distillation\.teacher: value missing"
    ):
        recipe_of(tmp_path, GRADUAL)


def test_variables_front_matter_and_groups_of_weights(tmp_path: Path, bert: nn.Module) -> None:
    recipe = recipe_of(tmp_path, CARD, "budget.batch=4", name="card.md")
    made = recipe_timetable(recipe, 10)
    assert [update.step for update in made.updates] == [30, 40, 50, 60]
    assert [made.lr_multiplier(step) for step in (0, 10, 20, 50, 80)] == [0, 0.5, 1, 0.5, 0]
    assert (recipe.learning_rate.peak, recipe.optimizer.weight_decay) == (1.5e-4, 0.0)
    pruning = recipe.pruning
    found = choose_weights(bert, sparsities=pruning.sparsities, only=pruning.only).tensors
    assert [(tensor.name, tensor.sparsity) for tensor in found] == [
        ("bert.encoder.layer.0.intermediate.dense.weight", 0.6),
        ("bert.encoder.layer.1.intermediate.dense.weight", 0.8),
    ]
    assert (pruning.method, pruning.scope) == ("magnitude", "uniform")


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    notes = converted(
        tmp_path, CARD.replace("    leave_enabled: True\n  -", "    leave_enabled: no\n  -"), name="card.md"
    ).notes
    lines = CARD.splitlines()
    assert [(lines[line - 1].strip(), text) for line, text in notes.left_out] == [
        (
            "leave_enabled: True",
            "GMPruningModifier: leave_enabled = False: the masks are kept to the end of the run",
        )
    ]


def test_sparse_transfer_keeps_the_zeros_that_are_there(tmp_path: Path) -> None:
    assert "--masks-from zeros" in converted(tmp_path, TRANSFER).notes.missing["pruning.sparsity"]
    recipe = recipe_of(tmp_path, TRANSFER, "budget.batch=4", "pruning.sparsity=0.9")
    made = recipe_timetable(recipe, 10)
    assert [(update.step, update.sparsity) for update in made.updates] == [(0, 0.9)]
    assert [made.lr_multiplier(step) for step in (0, 40, 80)] == pytest.approx([1, 0.505, 0.01])


ALTERNATING = """\
modifiers:
  - !EpochRangeModifier
    start_epoch: 0
    end_epoch: 20
  - !ACDCPruningModifier
    compression_sparsity: 0.9
    start_epoch: 2
    end_epoch: END
    update_frequency: 3
    params: ["re:bert.encoder.layer.*.weight"]
    momentum_buffer_reset: False
"""


@pytest.mark.parametrize(
    ("end", "updates"),
    [
        (20, [(50, 0.9), (80, 0), (110, 0.9), (140, 0), (170, 0.9)]),
        (17, [(50, 0.9), (80, 0), (110, 0.9)]),  # a dense phase at the end is left out, as in SparseML
        (8, [(50, 0.9)]),
    ],
)
def test_phases_of_acdc_are_those_of_the_source(
    tmp_path: Path, end: int, updates: list[tuple[int, float]]
) -> None:
    source = ALTERNATING.replace("END", str(end))
    recipe = recipe_of(tmp_path, source, "budget.batch=4")
    assert [(each.step, each.sparsity) for each in recipe_timetable(recipe, 10).updates] == updates
    assert (recipe.pruning.method, recipe.pruning.scope) == ("magnitude", "global")
    assert "ACDC" not in str(converted(tmp_path, source).notes)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    update_frequency: 3\n", "", "update_frequency: without it the schedule law"),
        ("end_epoch: END", "end_epoch: 5", "end_epoch = 5: it ends before its first sparse phase"),
    ],
)
def test_what_acdc_lacks_is_said(tmp_path: Path, old: str, new: str, said: str) -> None:
    source = ALTERNATING.replace(old, new).replace("END", "20")
    assert said in "\n".join(converted(tmp_path, source).notes.lines())


def test_a_dense_run_keeps_its_cyclic_learning_rate(tmp_path: Path) -> None:
    dense = GRADUAL[: GRADUAL.index("  - !OBS")] + GRADUAL[GRADUAL.index("distillation_modifiers") :]
    recipe = recipe_of(tmp_path, dense, *COMPLETE)
    pruned = recipe_timetable(recipe_of(tmp_path, GRADUAL, *COMPLETE), 100)
    made = recipe_timetable(recipe, 100)
    assert recipe.pruning is None
    assert [made.lr_multiplier(step) for step in range(1200)] == [
        pruned.lr_multiplier(s) for s in range(1200)
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    damp: 1e-7", "    damp: 1e-7\n    colour: red", "colour = 'red': not known to this command"),
        ("inter_func: cubic", "inter_func: inverse_cubic", "inter_func = 'inverse_cubic': the curve is cubic"),
        ("mask_type: unstructured", "mask_type: [1, -1]", "mask_type = [1, -1]: weights are pruned one by one"),
        ("mask_type: unstructured", "mask_type: filter", "mask_type = 'filter': weights are pruned one by one"),
        ("mask_type: unstructured", "mask_type: block4", "mask_type = 'block4': obert prunes single weights"),
        ("num_grads: 512", "num_grads: 7", "num_grads = 7: the gradients are those of whole batches"),
        ("num_grads: 512", "fisher_block_size: 4", "fisher_block_size = 4: blocks have 50 weights"),
        ("num_grads: 512", "grad_sampler_kwargs: {a: 1}", "the gradients are those of the training steps"),
        ("init_sparsity: 0.5", "init_sparsity: __FROM_PARAM__", "init_sparsity = '__FROM_PARAM__'"),
        ("end_epoch: 10\n", "end_epoch: 12\n", "end_epoch = 12: a run has a step after its last"),
        ("init_sparsity: 0.5\n", "init_sparsity: 0\n", "update_frequency = 3.0: without a jump"),
        ("[start_logits, end_logits]", "[hidden_states]", "distill_output_keys = ['hidden_states']"),
        ("  - !OBS", "  - !TrainableParamsModifier\n    params: [x]\n    trainable: False\n  - !OBS",
         "dsprune trains all trainable weights"),
        ("  - !OBS", "  - !QuantizationModifier\n    start_epoch: 1\n  - !OBS", "dsprune does not quantize"),
        ("  - !OBS", "  - !NewModifier\n  - !OBS", "NewModifier: not known to this command"),
        ("lr_func: linear", "lr_func: cosine", "lr_func = 'cosine': a recipe cannot express this course"),
        ("cycle_epochs: 3.0", "cycle_epochs: 3.0\n    param_groups: [1]", "param_groups = [1]"),
        ("cyclic_linear", "cyclic_linear", "the last step of a cycle is one step above its end"),
        ("init_lr: 8e-5\n    final_lr: 4e-5", "init_lr: 4e-5\n    final_lr: 8e-5", "cannot express this course"),
        ("    start_epoch: 0\n", "    start_epoch: 1\n", "EpochRangeModifier: start_epoch = 1: a run begins at 0"),
        ("re:bert.encoder.layer.*.intermediate", r"re:bert.encoder.layer.[^a].intermediate", "name its weights in"),
        ("re:bert.encoder.layer.*.intermediate", r"re:bert.encoder.layer.\\d+.intermediate", "a glob matches more"),
        ('"re:bert.encoder.layer.*.output.dense.weight"', "__ALL_PRUNABLE__", "matrices outside of the blocks"),
        ("!OBSPruningModifier", "!ACDCPruningModifier", "momentum_buffer_reset: moments begin at zero for"),
        ("hardness: 1.0", "hardness: 1.0\n     end_epoch: 5", "the teacher is used to the end of the run"),
        ("hardness: 1.0", "hardness: 1.0\n     teacher_input_keys: [a]", "the teacher gets the inputs of the student"),
    ],
)  # fmt: skip
def test_what_a_recipe_cannot_say_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in GRADUAL
    source = GRADUAL.replace(old, new, 1)
    notes = converted(tmp_path, source, name="source.yaml").notes
    found = [line for line, text in (*notes.differs, *notes.left_out) if said in text]
    assert found, list(notes.lines())
    key = said.partition(" = ")[0].split()[-1].split(":")[0]
    assert " = " not in said or key in source.splitlines()[found[0] - 1]


NEWER = """
num_epochs: 10
only_stage:
  run_type: train
  pruning_modifiers:
    MagnitudePruningModifier:
      init_sparsity: 0.0
      final_sparsity: {0.5: [a.weight], 0.75: ["re:b.*weight"]}
      start: 2
      end: eval(num_epochs - 2)
      update_frequency: 0.5
      leave_enabled: false
  lr_modifiers:
    SetLearningRateModifier: {start: 0, learning_rate: 3e-5}
  other_modifiers:
    EpochRangeModifier: {start: 0, end: eval(num_epochs)}
    SetWeightDecayModifier: {weight_decay: 0.1, start_epoch: 3, param_groups: [0]}
    DistillationModifier: {hardness: 0.8, temperature: 1.0, start: 4}
    TrainableParamsModifier: {params: __ALL__, trainable: true, params_strict: false}
"""


def test_newer_recipes_name_their_modifiers_and_settings_otherwise(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, NEWER, *COMPLETE)
    pruning, distillation = recipe.pruning, recipe.distillation
    assert (pruning.sparsity, pruning.only) == (0.75, ("a.weight", "b*weight"))
    assert pruning.sparsities == {"a.weight": 0.5, "b*weight": 0.75}
    made = recipe_timetable(recipe, 100)
    assert [update.step for update in made.updates] == list(range(250, 801, 50))
    assert {3e-5 * made.lr_multiplier(step) for step in range(1000)} == {3e-5}
    hardness = distillation.hardness
    assert [hardness.at(step, 100, 1000) for step in (0, 399, 400, 999)] == [0, 0, 0.8, 0.8]
    assert recipe.optimizer.weight_decay == 0.1
    said = [text for _, text in converted(tmp_path, NEWER).notes.left_out]
    assert [text.partition(" = ")[0] for text in said] == [
        "MagnitudePruningModifier: leave_enabled",
        "SetWeightDecayModifier: start_epoch",
        "SetWeightDecayModifier: param_groups",
        "TrainableParamsModifier: params_strict",
    ]


@pytest.mark.parametrize(("kind", "pattern"), [("block4", "1x4"), ("[4, 2]", "4x2")])
def test_blocks_are_a_pattern(tmp_path: Path, kind: str, pattern: str) -> None:
    source = GRADUAL.replace("mask_type: unstructured", f"mask_type: {kind}")
    whole = source.replace("OBS", "GlobalMagnitude").replace("num_grads: 512", "leave_enabled: true")
    assert recipe_of(tmp_path, whole, *COMPLETE).pruning.pattern == pattern
    assert "mask_type" not in "\n".join(converted(tmp_path, whole).notes.lines())


def test_blocks_of_the_second_order_have_the_diagonal_of_the_fisher_matrix(tmp_path: Path) -> None:
    source = GRADUAL.replace("mask_type: unstructured", "mask_type: block4\n    num_recomputations: 16")
    pruning = recipe_of(tmp_path, source, *COMPLETE).pruning
    assert (pruning.method, pruning.pattern, pruning.window) == ("empirical-fisher", "1x4", 512)
    notes = converted(tmp_path, source).notes
    assert [text.partition(" = ")[0] for _, text in notes.left_out] == [
        "OBSPruningModifier: damp",
        "OBSPruningModifier: num_recomputations",
    ]
    assert sum("empirical-fisher scores blocks" in text for _, text in notes.differs) == 1


@pytest.mark.parametrize("name", METHODS_OF)
@pytest.mark.parametrize("kind", ["unstructured", "block4"])
def test_the_settings_fit_the_method(tmp_path: Path, name: str, kind: str) -> None:
    source = GRADUAL.replace("OBSPruningModifier", name).replace("unstructured", kind)
    if "OBS" not in name:
        source = source.replace("    num_grads: 512\n    damp: 1e-7\n", "")
    pruning = recipe_of(tmp_path, source, *COMPLETE, "pruning.sparsity=0.9").pruning
    check_pruning(pruning)
    assert (pruning.recomputations is None) == (pruning.method != "obert")


def test_a_value_that_the_method_does_not_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"as a recipe: pruning.damping: value 1e-07: 'magnitude'"):
        converted(tmp_path, GRADUAL, *COMPLETE, "pruning.method=magnitude", "pruning.recomputations=null")


def test_a_first_update_without_earlier_steps_is_named(tmp_path: Path) -> None:
    source = GRADUAL.replace("start_epoch: 1\n", "start_epoch: 0\n")
    said = [text for _, text in converted(tmp_path, source).notes.differs]
    assert sum("the gradient of the first step alone" in text for text in said) == 1


def test_updates_at_every_step(tmp_path: Path) -> None:
    made = recipe_timetable(recipe_of(tmp_path, GRADUAL.replace("update_frequency: 3.0", ""), *COMPLETE), 10)
    assert [update.step for update in made.updates] == list(range(10, 101))
    assert made.rewind is False


def test_every_setting_of_a_modifier_is_said_or_named(tmp_path: Path) -> None:
    whole = converted(tmp_path, GRADUAL)
    for number, line in enumerate(GRADUAL.splitlines()):
        key = re.match(r" +(\w+): ", line)
        if key is None:
            continue
        lines = GRADUAL.splitlines()
        lines[number] = line.replace(key[1], f"x_{key[1]}")
        without = converted(tmp_path, "\n".join(lines))
        assert any(f"x_{key[1]} = " in text for _, text in without.notes.left_out), key[1]
        assert without.text != whole.text


def test_a_second_schedule_is_left_out(tmp_path: Path) -> None:
    other = CARD.replace("update_frequency: 1\n    leave_enabled: True\n---", "update_frequency: 2\n---")
    notes = converted(tmp_path, other, name="card.md").notes
    assert any("a run has one schedule of pruning, and that of line" in text for _, text in notes.left_out)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", r"source\.yaml: not valid YAML"),
        ("- a", r"source\.yaml: holds no mapping"),
        ("a: 1", r"source\.yaml: has no modifiers of SparseML .* section compression_training or scheduler"),
        ("modifiers: [1]", r"source\.yaml: line 1: modifiers holds 1, which is not a modifier"),
        ("a: {x_modifiers: []}\nb: {x_modifiers: []}", r"source\.yaml: has the stages a, b: a recipe is one run"),
        ("modifiers: []\nmodifiers: []", r"source\.yaml: line 2: the key 'modifiers' appears twice"),
        ("a: 1\n---\nb: 2", r"source\.yaml: line 3: a second document after ---"),
        ("---\n---\n", r"source\.yaml: holds no mapping"),
        ("? [a]\n: 1", r"source\.yaml: line 1: a key that is not text"),
        ("a: " + "[" * 60 + "]" * 60, r"source\.yaml: line 1: too many values or levels"),
        ("{x: 1}", r"source\.yaml: line 1 is not JSON"),
        (GRADUAL.replace("0.9", "1.5"), r"source\.yaml: as a recipe: pruning\.sparsity: value 1\.5"),
        (GRADUAL.replace("end_epoch: 10", "end_epoch: soon"), r"line \d+: OBSP.*: end_epoch is 'soon': it must"),
        (GRADUAL.replace("hardness: 1.0", "hardness: true"), r"hardness is True: it must be a number"),
        (GRADUAL.replace("0.9", "{high: [a]}"), r"line \d+: final_sparsity: 'high' is not a sparsity: write a number"),
        (GRADUAL.replace("[start_logits, end_logits]", "[[a]]"), r"distill_output_keys is \['a'\]: it must be a text"),
        ("num_modifiers: 3", r"line 1: num_modifiers holds 3, which is not a modifier"),
        (GRADUAL.replace("0.9", "eval(b)") + "\nb: eval(c)\nc: eval(b)", r"line \d+: 'eval\(b\)' .*depends on itself"),
        (GRADUAL.replace("0.9", "eval(tarjet)") + "\ntarget: 1", r"'tarjet', which .*: did you mean 'target'"),
        (GRADUAL.replace("0.9", "eval(print(1))"), r"line \d+: .* holds 'print\(1\)', which is no"),
    ],
)  # fmt: skip
def test_files_that_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        converted(tmp_path, text)


def test_a_recipe_may_end_with_a_line_of_dashes(tmp_path: Path) -> None:
    plain = converted(tmp_path, GRADUAL)
    for text in (f"---{GRADUAL}---\n", f"{GRADUAL}---", f"---{GRADUAL}...\n"):
        assert converted(tmp_path, text).text == plain.text


def test_a_card_without_a_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"card\.md: has no YAML between two lines of ---"):
        converted(tmp_path, "# modifiers", name="card.md")


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", 7),
        ("-(a - 0.5) / 2", -0.75),
        ("max(a, int(3.7), abs(-1))", 3),
        ("7 // 2 % 2 ** 1", 1.0),
        ("b", "text"),
    ],
)
def test_arithmetic_is_evaluated(expression: str, value: Any) -> None:
    assert evaluate(expression, {"a": 2, "b": "text"}.__getitem__) == value


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("1 +", "is not an arithmetic expression"),
        ("(" * 300, "is not an arithmetic expression"),
        ("1" * 501, "has 501 characters"),
        ("1 / 0", "has no value"),
        ("9 ** 9 ** 9", "has no value"),
        ("int()+max()", "has no value"),
        ("b + 1", "'b', which is 'text', not a number"),
        ("'a' * 9", "which is not arithmetic"),
        ("a.real", "which is not arithmetic"),
        ("[1][0]", "which is not arithmetic"),
        ("__import__('os')", "which is not arithmetic"),
        ("(lambda: 1)()", "which is not arithmetic"),
        ("round(1.5, ndigits=1)", "which is not arithmetic"),
        ("True + 1", "which is not arithmetic"),
    ],
)
def test_what_is_no_arithmetic_is_refused(expression: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        evaluate(expression, {"a": 2, "b": "text"}.__getitem__)


@pytest.mark.parametrize(
    "pattern",
    [
        r"bert.encoder.layer.*.attention.self.query.weight", r".*weight", r"bert\.encoder\.layer\.(0|1)\..*bias",
        r"bert.encoder.layer.[01].output.dense.weight", r"(?:bert.pooler|qa_outputs).*",
        r"bert.encoder.layer.\d.*weight$", r"qa_outputs.(weight|bias)", r"^bert.+LayerNorm.weight",
    ],
)  # fmt: skip
def test_globs_match_what_the_expression_matches(pattern: str, bert: nn.Module) -> None:
    from fnmatch import fnmatchcase

    names = [name for name, _ in bert.named_parameters()]
    expected = [name for name in names if re.match(pattern, name)]
    assert [name for name in names if any(fnmatchcase(name, glob) for glob in globs_of(pattern))] == expected


@pytest.mark.parametrize("pattern", ["a?b", "a{3}", "[^a]", "(a|b)*", "a(b"])
def test_expressions_without_a_glob_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="has no counterpart in a glob"):
        globs_of(pattern)


RISE = Piece(0, 2, 0.0, 4.0)


@pytest.mark.parametrize(
    ("pieces", "updates", "section"),
    [
        ([Piece(0, 8, 4, 1)], [2, 4], {"rewind": False, "final": 0.25}),
        ([RISE, Piece(2, 8, 4, 0)], [4], {"warmup": "2 epochs", "rewind": False, "final": 0}),
        ([Piece(0, 2, 2, 1), *cut(Piece(2, 8, 4, 1), 2)], [2, 4, 6],
         {"rewind": True, "dense_peak": 0.5, "dense_final": 0.5, "interval_final": 0.25, "final": 0.25}),
        (cut(Piece(0, 8, 4, 1), 4), [0, 4], {"rewind": True, "interval_final": 0.25, "final": 0.25}),
        (cut(Piece(0, 8, 4, 1), 4), [1, 4],
         {"rewind": False, "rewind_at": ["4 epochs"], "dense_final": 0.25, "final": 0.25}),
        ([Piece(0, 4, 2, 1), Piece(4, 8, 4, 1)], [], None),  # a lower peak needs a mask update
        ([Piece(0, 4, 4, 1), Piece(4, 6, 4, 2), Piece(6, 7, 4, 1), Piece(7, 8, 4, 1)], [4, 6, 7], None),
        ([Piece(0, 8, 1, 4)], [], None),
        ([Piece(1, 8, 4, 1)], [], None),
        ([Piece(0, 3, 4, 1), Piece(2, 8, 4, 1)], [], None),
        ([], [], None),
    ],
)  # fmt: skip
def test_pieces_become_a_learning_rate_section(
    pieces: list[Piece], updates: list[float], section: dict[str, Any] | None
) -> None:
    peak = {"peak": 4, "warmup": "0 steps", "dense_peak": 1}
    assert learning_rate(pieces, updates, 8) == (None if section is None else peak | section)


def test_compression_of_deepspeed_becomes_a_recipe(tmp_path: Path, bert: nn.Module) -> None:
    overrides = "budget.epochs=2", "model.path=bert"
    recipe = recipe_of(tmp_path, json.dumps(COMPRESSION, indent="\t"), *overrides, name="ds.json")
    assert (recipe.budget.batch, recipe.budget.micro_batch, recipe.precision) == (32, 8, "fp16")
    assert (recipe.gradient_clipping, recipe.optimizer.type, recipe.optimizer.betas) == (
        0.5,
        "Adam",
        (0.8, 0.9),
    )
    assert recipe.model.layers == (1,)
    pruning = recipe.pruning
    assert (pruning.curve, str(pruning.start), pruning.method, pruning.scope) == (
        "one-shot", "2000 steps", "magnitude", "uniform"
    )  # fmt: skip
    groups = {0.6: ["attention.self"], 0.9: [r"layer.(0|1).output", "intermediate.dense"]}
    expected = {
        f"{name}.weight": sparsity
        for sparsity, words in groups.items()
        for name, module in bert.named_modules()
        if isinstance(module, nn.Linear) and any(re.search(word, name) for word in words)
    }
    found = choose_weights(bert, sparsities=pruning.sparsities, only=pruning.only).tensors
    assert {tensor.name: tensor.sparsity for tensor in found} == expected


def test_what_compression_of_deepspeed_a_recipe_cannot_say(tmp_path: Path) -> None:
    text = json.dumps(COMPRESSION, indent=1)
    notes = converted(tmp_path, text, name="ds.json").notes
    named = {
        text.splitlines()[line - 1].strip().split('"')[1]: said for line, said in notes.left_out if line > 1
    }
    assert named == {
        "torch_adam": "optimizer: params.torch_adam = True: not known to this command",
        "weight_quantization": "weight_quantization: dsprune does not quantize",
        "colour": "sparse_pruning: shared_parameters.colour = 'red': not known to this command",
    }
    assert (
        1,
        "steps_per_print: stay in the ds_config, which the recipe names in `deepspeed`",
    ) in notes.left_out
    assert set(notes.missing) == {"budget.epochs", "model.path"}
    assert any("those at the start" in said for _, said in notes.differs)


@pytest.mark.parametrize(
    ("shared", "groups", "settings", "said"),
    [
        ({"method": "topk"}, {"modules": ["a"]}, {"curve": "one-shot", "start": "1000 steps"}, "learns a score"),
        ({"method": "new"}, {}, {"method": "magnitude"}, "method = 'new': not known"),
        ({"schedule_offset_end": 9}, {}, {"start": "1000 steps"}, "all weights are pruned at once"),
        ({}, {"modules": ["a?"]}, {}, "name its weights in pruning.only"),
        ({}, {"modules": [r"a.\w+.b"]}, {"only": ["*a.?*.b*.weight"]}, "a glob matches more"),
        ({}, {"related_modules": [["b"]]}, {"sparsity": 0.75}, "no module becomes smaller"),
        (
            {"method": "snip_momentum", "schedule_offset": 10, "schedule_offset_end": 90, "schedule_offset_stride": 20,
             "block_pattern": "4x1", "excluded_modules": ["pooler"]},
            {},
            {"curve": "cubic", "first": 0.0, "start": "10 steps", "end": "90 steps", "every": "20 steps",
             "exclude": ["*pooler*"], "pattern": "4x1"},
            "with momentum",
        ),
        ({"method": "snip_momentum", "block_pattern": "1x1", "schedule_offset_end": 9000}, {},
         {"method": "snip"}, "with momentum"),
        ({"method": "snip_momentum", "block_pattern": "4:8", "schedule_offset_end": 9000}, {},
         {"method": "snip"}, "not in blocks"),
    ],
)  # fmt: skip
def test_each_method_of_deepspeed_becomes_its_counterpart(
    tmp_path: Path, shared: dict[str, Any], groups: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    part = {"shared_parameters": {"enabled": True, **shared},
            "different_groups": {"g": {"params": {"dense_ratio": 0.25}, **groups}}}  # fmt: skip
    source = json.dumps({"compression_training": {"sparse_pruning": part}}, indent=1)
    made = converted(tmp_path, source, name="ds.json")
    section = yaml.safe_load(made.text)["pruning"]
    assert settings.items() <= section.items()
    assert section.get("pattern") == settings.get("pattern")
    assert sum(said in line for line in made.notes.lines()) == 1
    assert ("only" in section) == ("modules" in groups and groups["modules"] != ["a?"])


def test_the_fisher_matrix_keeps_its_settings(tmp_path: Path) -> None:
    source = GRADUAL.replace(
        "damp: 1e-7", "damp: 1e-6\n    num_recomputations: 16\n    fisher_block_size: 50"
    )
    pruning = recipe_of(tmp_path, source, *COMPLETE).pruning
    assert (pruning.method, pruning.window, pruning.damping, pruning.recomputations) == (
        "obert",
        512,
        1e-6,
        16,
    )


def test_a_dense_ratio_that_is_not_set_is_missing(tmp_path: Path) -> None:
    part = {"shared_parameters": {"enabled": True}, "different_groups": {"g": {"modules": "*"}}}
    made = converted(tmp_path, json.dumps({"compression_training": {"sparse_pruning": part}}), name="ds.json")
    assert "pruning.sparsity" in made.notes.missing


def test_the_command_prints_or_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "source.yaml").write_text(GRADUAL)
    command = ["convert", str(tmp_path / "source.yaml"), *COMPLETE]
    assert run_command(command) == 0
    printed = capsys.readouterr().out
    assert run_command([*command, "--write", str(tmp_path / "made.yaml")]) == 0
    assert (tmp_path / "made.yaml").read_text() == printed
    assert "line 36, OBSPruningModifier: num_grads = 512" in capsys.readouterr().out
    assert load_recipe(str(tmp_path / "made.yaml")).budget.batch == 16
    assert run_command([*command, "--write", str(tmp_path / "made.yaml")]) == 2
    assert f"--write: value {tmp_path / 'made.yaml'}: the file exists" in capsys.readouterr().err


def test_the_guide_names_every_modifier() -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
    assert [name for name in KNOWN if name not in guide] == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.yaml", "no such file"),
        (".", "not a file"),
        ("pipe", "not a file"),
        ("bytes", "is not text"),
        ("deep", "nested too deeply"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "deep").write_text("[" * 5000)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=said):
        convert_file(tmp_path / name)

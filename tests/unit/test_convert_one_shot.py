"""One-shot modifiers of llm-compressor, converted to a run that prunes at its first step and recovers."""

from pathlib import Path
from typing import Any

import pytest

from dsprune.commands.convert.convert import Converted, convert_file
from dsprune.errors import UserError
from dsprune.recipe import load_recipe

WANDA = """\
test_stage:
  sparsity_modifiers:
    WandaPruningModifier:
      sparsity: 0.5
      targets: ["re:.*layers.0$", "re:.*fc1"]
      ignore: [lm_head]
"""

HESSIAN = """\
pruning_stage:
  obcq_modifiers:
    SparseGPTModifier:
      sparsity: 0.5
      mask_structure: "1:4"
      block_size: 128
      dampening_frac: 0.001
      targets: ["Linear"]
      ignore: ["re:.*lm_head"]
"""

FINETUNING = """\
training_stage:
  pruning_modifiers:
    MagnitudePruningModifier:
      targets: ["re:.*fc1.weight"]
      init_sparsity: 0.2
      final_sparsity: 0.8
      start: 1
      end: 5
      update: 2
      update_scheduler: linear
      mask_structure: unstructured
      apply_globally: true
"""

GIVEN = "budget.epochs=8", "budget.batch=16"


def converted(folder: Path, text: str, *overrides: str) -> Converted:
    (folder / "recipe.yaml").write_text(text)
    return convert_file(folder / "recipe.yaml", overrides)


def pruning_of(folder: Path, text: str) -> dict[str, Any]:
    (folder / "made.yaml").write_text(converted(folder, text, *GIVEN).text)
    recipe = load_recipe(str(folder / "made.yaml"))
    return {**recipe.pruning.model_dump(), "start": str(recipe.pruning.start), "end": str(recipe.pruning.end)}


def test_wanda_prunes_the_same_weights_at_the_first_step(tmp_path: Path) -> None:
    expected = {
        "method": "wanda", "curve": "one-shot", "start": "0 steps", "sparsity": 0.5,
        "only": ("*layers.0.*weight", "*fc1*weight"), "exclude": ("lm_head.*weight",),
    }  # fmt: skip
    assert pruning_of(tmp_path, WANDA).items() >= expected.items()
    notes = converted(tmp_path, WANDA).notes
    assert set(notes.missing) == {"budget.batch", "budget.epochs"}
    assert [said.partition(":")[2] for _, said in notes.differs] == [
        " all layers are pruned together, from the inputs of the dense model"
    ]
    assert not notes.left_out


def test_sparsegpt_is_wanda_and_says_so(tmp_path: Path) -> None:
    # one zero in four weights there keeps three of them here
    assert (
        pruning_of(tmp_path, HESSIAN).items()
        >= {"pattern": "3:4", "sparsity": 0.25, "method": "wanda"}.items()
    )
    notes = converted(tmp_path, HESSIAN).notes
    assert any("the score is Wanda's" in said for _, said in notes.differs)
    assert [(line, said.partition(": there")[0]) for line, said in notes.left_out] == [
        (6, "SparseGPTModifier: block_size = 128"),
        (7, "SparseGPTModifier: dampening_frac = 0.001"),
    ]


def test_training_modifiers_have_other_names_for_some_settings(tmp_path: Path) -> None:
    expected = {
        "method": "magnitude", "scope": "global", "curve": "linear", "first": 0.2, "sparsity": 0.8,
        "start": "1 epochs", "end": "3 epochs", "only": ("*fc1.weight",), "pattern": "unstructured",
    }  # fmt: skip
    found = pruning_of(tmp_path, FINETUNING)
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("sparsity: 0.5", "sparsity: [0.5, 0.6]", "sparsity = [0.5, 0.6]: one for each layer"),
        ("sparsity: 0.5", "sparsity_profile: owl", "sparsity_profile = 'owl': all matrices have one"),
        ("sparsity: 0.5", "mask_structure: 16:x", "mask_structure = '16:x': weights are pruned one by one"),
        ("sparsity: 0.5", "preserve_sparsity_mask: true", "preserve_sparsity_mask = True: not known"),
        ("sparsity: 0.5", "colour: red", "colour = 'red': not known to this command"),
        ("lm_head", '"re:(a"', "'re:(a': '(a' has no counterpart in a glob: name its weights in pruning.exclude"),
        ("lm_head", "Linear", "ignore = ['Linear']: a class, not a name: name its weights in pruning.exclude"),
        ("    WandaP", "    GPTQModifier: {}\n    WandaP", "GPTQModifier: dsprune does not quantize"),
    ],
)  # fmt: skip
def test_what_a_recipe_cannot_say_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    text = WANDA.replace(old, new)
    [line] = [line for line, remark in converted(tmp_path, text).notes.left_out if said in remark]
    assert new.split(":")[0].strip() in text.splitlines()[line - 1] or new[1:5] in text.splitlines()[line - 1]


def test_zeros_that_are_kept_are_named(tmp_path: Path) -> None:
    kept = HESSIAN.replace("block_size: 128", "preserve_sparsity_mask: true")
    assert any("--masks-from zeros" in said for _, said in converted(tmp_path, kept).notes.left_out)


def test_a_run_has_one_schedule(tmp_path: Path) -> None:
    both = FINETUNING + "    WandaPruningModifier: {sparsity: 0.5}\n"
    assert (13, "WandaPruningModifier: a run has one schedule of pruning, and another modifier has it") in (
        converted(tmp_path, both).notes.left_out
    )
    twice = WANDA + "    SparseGPTModifier: {sparsity: 0.5}\n"
    assert any("that of line" in said for _, said in converted(tmp_path, twice).notes.left_out)


def test_arguments_of_the_trainer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"recipe\.yaml: has no modifiers of SparseML .*compression_training"):
        converted(tmp_path, '{"learning_rate": 5e-5, "lr_scheduler_type": "cosine"}')

import json
import math
import re
import time
from pathlib import Path

import pytest
from rich.filesize import decimal
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ConvBertConfig,
    LlamaConfig,
    Wav2Vec2Config,
)

from dsprune.commands.plan.law import law_table, sweep_table
from dsprune.commands.plan.make import make_plan
from dsprune.commands.plan.plan import plan
from dsprune.errors import UserError
from dsprune.masks.cut_bands import band_bytes
from dsprune.masks.input_sums import input_bytes
from dsprune.methods.checks import check_pruning
from dsprune.methods.method import find_method
from dsprune.model.cost import checkpoint_bytes
from dsprune.recipe import Recipe, load_recipe
from dsprune.recipe.pattern import Pattern
from dsprune.recipe.timing import AT_TARGET
from dsprune.registry import METHODS
from dsprune.selection.compensate import block_bytes
from dsprune.selection.groups import Group, make_groups
from dsprune.selection.tiles import Tiling
from dsprune.selection.traffic import update_bytes
from dsprune.testing.tiny import tiny_bert, tiny_sentiment
from tests.printing import printed
from tests.unit.sparse import save_sparse

BLOCK = 4 * 16 * 16 + 2 * 16 * 32  # the matrices of one block of the model below


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a model's config: two blocks, no weights."""
    folder = tmp_path_factory.mktemp("bert")
    BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=100
    ).save_pretrained(folder)
    return str(folder)


def show(
    recipe: Recipe, *, stage: int | None = None, examples: int | None = 3200, plot: Path | None = None
) -> str:
    return printed(plan, recipe, world_size=4, stage=stage, train_examples=examples, plot=plot, width=140)


def test_updates_hit_the_target_in_both_conventions(bert: str) -> None:
    made = make_plan(load_recipe("glue-90", [f"model.path={bert}"]), 4, 3200)
    assert made.num_prunable == 2 * BLOCK
    assert made.timetable.steps_per_epoch == 100
    last = made.timetable.updates[-1]
    assert made.num_pruned(last) == round(0.9 * 2 * BLOCK)
    text = show(made.recipe)
    assert f"{made.num_pruned(last) / made.num_prunable:.2%}".replace("%", " %") in text
    assert f"{made.num_pruned(last) / made.num_weights:.2%}".replace("%", " %") in text


def test_the_memory_is_that_of_the_optimizer(bert: str, tmp_path: Path) -> None:
    own = {"type": "SGD", "params": {"lr": "auto"}}
    (tmp_path / "sgd.json").write_text(json.dumps({"optimizer": own, "zero_optimization": {"stage": 0}}))
    overrides = [f"model.path={bert}", f"deepspeed={tmp_path / 'sgd.json'}", "pruning.method=magnitude"]
    recipe = load_recipe("glue-90", overrides)
    rows = {line.split()[0]: line.split()[1:] for line in show(recipe, stage=0).splitlines() if line.strip()}
    size = make_plan(recipe, 4, 3200).num_weights, 2 * BLOCK, 0, recipe.precision
    assert rows["moments"] == ["0", "bytes"]
    assert rows["checkpoint"] == decimal(checkpoint_bytes(*size, num_moments=0)).split()


def test_a_tensor_with_a_target_of_its_own_keeps_pace(bert: str) -> None:
    overrides = [f"model.path={bert}", "pruning.sparsities={'*.layer.0.*': 0.45}"]
    made = make_plan(load_recipe("glue-90", overrides), 4, 3200)
    for update in made.timetable.updates:
        own, common = made.groups(update)
        assert own.num_pruned == pytest.approx(update.sparsity / 2 * BLOCK, abs=1)
        assert common.num_pruned == pytest.approx(update.sparsity * BLOCK, abs=1)


def test_what_stays_dense_inside_the_blocks_is_named_whole_in_a_narrow_terminal(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 12, "num_attention_heads": 2, "intermediate_size": 32}
    ConvBertConfig(**sizes, vocab_size=100, embedding_size=16).save_pretrained(tmp_path)
    recipe = load_recipe("glue-90", [f"model.path={tmp_path}", "pruning.exclude=['*.0.output.dense.weight']"])
    text = printed(plan, recipe, world_size=4, stage=None, train_examples=3200, plot=None, width=40)
    lines = [line.split() for line in text.splitlines()]
    depthwise = "attention.self.key_conv_attn_layer.depthwise.weight"
    reason = ["depthwise", "(grouped)", "convolution"]
    assert [
        f"convbert.encoder.layer.[0-9].{depthwise}",
        *["[16,", "1,", "9]", "10", "1,440"],
        *reason,
    ] in lines
    assert [f"convbert.encoder.layer.1[01].{depthwise}", *["[16,", "1,", "9]", "2", "288"], *reason] in lines
    assert ["convbert.encoder.layer.0.output.dense.weight", *["[16,", "32]", "1", "512", "excluded"]] in lines


def test_a_model_that_has_no_such_head_is_refused(tmp_path: Path) -> None:
    Wav2Vec2Config().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"^model '{tmp_path}': .*AutoModelForSequenceClassification.*sst2"):
        make_plan(load_recipe("glue-90", [f"model.path={tmp_path}", "task.name=sst2"]), 4, 3200)


@pytest.mark.parametrize(("name", "has_updates"), [("glue-90", True), ("sentiment-dense", False)])
def test_a_recipe_that_does_not_prune_has_no_table_of_updates(
    name: str, has_updates: bool, bert: str
) -> None:
    assert ("learning rate" in show(load_recipe(name, [f"model.path={bert}"]))) == has_updates


def test_all_stages_or_the_one_asked_for(bert: str) -> None:
    recipe = load_recipe("glue-90", [f"model.path={bert}"])
    assert re.findall(r"ZeRO stage (\d)  ", show(recipe)) == ["0", "1", "2", "3"]
    assert re.findall(r"ZeRO stage (\d)  ", show(recipe, stage=3)) == ["3"]


def test_no_heading_is_cut_on_a_narrow_terminal(bert: str) -> None:
    text = printed(plan, load_recipe("glue-90", [f"model.path={bert}"]), 8, None, 67_349, None, width=80)
    for heading in (
        "of all weights",
        "weights pruned",
        "learning rate",
        *(f"ZeRO stage {n}" for n in range(4)),
    ):
        assert heading in text
    assert "gradients" in text
    assert "…" not in text


@pytest.mark.parametrize(("method", "kept"), [("movement", 4), ("fisher", 0), ("rigl", 0), ("obert", 104)])
def test_memory_and_disk_have_what_the_method_keeps(bert: str, method: str, kept: int) -> None:
    recipe = load_recipe("glue-90", [f"model.path={bert}", f"pruning.method={method}"])
    text, num_prunable = show(recipe, stage=2), 2 * BLOCK
    assert ("accumulators" in text) == (kept > 0)
    if kept:
        assert re.search(rf"accumulators +{re.escape(decimal(kept * num_prunable // 4))} ", text)
    sizes = [checkpoint_bytes(1000, 800, 2, "fp32", kept_bytes) for kept_bytes in (0, kept)]
    assert sizes[1] - sizes[0] == kept * 800


def test_the_method_of_the_first_mask_is_planned(bert: str) -> None:
    recipe = load_recipe(
        "glue-90", [f"model.path={bert}", "pruning.method=rigl", "pruning.first_method=snip"]
    )
    text = show(recipe, stage=2)
    assert "rigl after snip" in text
    assert re.search(rf"accumulators +{re.escape(decimal(4 * 2 * BLOCK // 4))} ", text)


@pytest.mark.parametrize("name", [*METHODS, "constant", "alternating"])
def test_the_other_method_fits_the_recipe(bert: str, name: str) -> None:
    own = {
        "constant": ["pruning.method=rigl", "pruning.curve=constant", "pruning.drop=0.2"],
        "alternating": ["pruning.method=magnitude", "pruning.curve=alternating"],
        "snip": ["pruning.method=snip", "pruning.window=3"],
        "empirical-fisher": ["pruning.method=empirical-fisher", "pruning.window=3"],
    }.get(name, [f"pruning.method={name}"])
    overrides = [f"model.path={bert}", "pruning.first=null", *own]
    made = make_plan(load_recipe("glue-90", overrides), 4, 3200)
    assert ("pruning.first" in str(law_table(made).rows)) == (name not in AT_TARGET)
    [other] = [row[0] for row in sweep_table(made).rows if row[0].startswith("pruning.method=")]
    assert other.removeprefix("pruning.method=") in METHODS
    changed = load_recipe("glue-90", [*overrides, other]).pruning
    assert changed.method != own[0].removeprefix("pruning.method=")
    check_pruning(changed)


def test_growth_doubles_the_bytes_on_the_wire(bert: str) -> None:
    recipe = load_recipe("glue-90", [f"model.path={bert}", "pruning.method=rigl"])
    made = make_plan(recipe, 4, 3200)
    num_bytes = update_bytes(made.groups(made.timetable.updates[-1]), 4)
    assert f"sends at most {decimal(2 * num_bytes)} a mask update and receives as much" in show(recipe)


def test_the_bytes_of_inputs_are_planned(bert: str) -> None:
    recipe = load_recipe("glue-90", [f"model.path={bert}", "pruning.method=wanda"])
    text, made = show(recipe), make_plan(recipe, 4, 3200)
    inputs = 8 * sum(tensor.shape[1] for tensor in made.tensors)
    assert input_bytes(made.tensors) == inputs
    assert "wanda, row, " in text
    assert f"Inputs: each rank sends {decimal(inputs)} at a step that counts" in text
    assert re.search(rf"accumulators +{decimal(inputs)}", text)


def test_the_bytes_of_cut_blocks_are_planned(bert: str) -> None:
    recipe = load_recipe(
        "glue-90", [f"model.path={bert}", "pruning.method=obert", "pruning.recomputations=3"]
    )
    text = show(recipe)
    made = make_plan(recipe, 4, 3200)
    num_bytes = update_bytes(made.groups(made.timetable.updates[-1]), 4)
    assert f"sends at most {decimal(3 * num_bytes)} a mask update" in text
    at_step, at_update = map(decimal, block_bytes(find_method("obert"), 12, 3))
    assert f"at most {at_step} a step whose gradients count, and {at_update} a mask update" in text


@pytest.mark.parametrize(("scope", "num_groups"), [("global", 1), ("normalized", 1), ("uniform", 12)])
def test_bytes_on_the_wire_are_those_of_the_selection(bert: str, scope: str, num_groups: int) -> None:
    recipe = load_recipe("glue-90", [f"model.path={bert}", f"pruning.scope={scope}"])
    groups = make_groups(make_plan(recipe, 4, 3200).tensors, [0.9] * 12, scope)
    assert len(groups) == num_groups
    num_bytes = update_bytes(groups, world_size=4, normalized=scope == "normalized")
    assert f"sends at most {decimal(num_bytes)} a mask update and receives as much, for 7 of them" in show(
        recipe
    )


def test_bytes_on_the_wire_do_not_grow_with_the_ranks() -> None:
    group = Group("70 B weights", tuple(range(560)), 70_000_000_000, 63_000_000_000)
    assert update_bytes([group], 1) == 0
    assert update_bytes([group], 2) == update_bytes([group], 4096) < 200_000


def test_a_pattern_is_shown_with_the_bytes_that_complete_its_tiles(bert: str) -> None:
    recipe = load_recipe("glue-90", [f"model.path={bert}", "pruning.pattern=4x1"])
    bands = [Tiling.of(tensor, Pattern.parse("4x1")).band for tensor in make_plan(recipe, 4, 3200).tensors]
    text = show(recipe)
    assert "90.0 %, 4x1, " in text
    assert f"sends {decimal(band_bytes(bands, 4))} at most to complete tiles of 4x1" in text
    with pytest.raises(UserError, match=r"^pruning.pattern: value 5x1: bert.* rows are no multiple of 5"):
        make_plan(load_recipe("glue-90", [f"model.path={bert}", "pruning.pattern=5x1"]), 4, 3200)


@pytest.mark.parametrize(("method", "selections"), [("magnitude", 1), ("rigl", 2)])
def test_rows_are_shown_with_their_sparsity_and_the_bytes_that_complete_them(
    bert: str, method: str, selections: int
) -> None:
    recipe = load_recipe("glue-90", [f"model.path={bert}", "pruning.scope=row", f"pruning.method={method}"])
    made, text = make_plan(recipe, 4, 3200), show(recipe)
    per_row = [(math.prod(tensor.shape[:-1]), tensor.shape[-1]) for tensor in made.tensors]
    zeros = sum(rows * round(0.9 * columns) for rows, columns in per_row)
    assert f"{zeros:,}" in text
    assert (
        f"sends at most {decimal(selections * 16 * len(per_row))} a mask update and receives as much" in text
    )
    completed = selections * band_bytes([columns for _, columns in per_row], 4)
    assert f"sends {decimal(completed)} at most to complete rows that shards cut" in text


def test_without_a_peak_the_rate_is_shown_as_a_share_of_it(bert: str, tmp_path: Path) -> None:
    config = tmp_path / "rate.json"
    config.write_text('{"optimizer": {"type": "AdamW", "params": {"lr": 1e-4}}}')
    overrides = [f"model.path={bert}", "learning_rate.dense=null", f"deepspeed={config}", "budget.epochs=500"]
    assert "1.00 x peak" in show(load_recipe("glue-90", overrides))


def test_peaks_of_the_groups_and_the_decay_are_shown(bert: str) -> None:
    overrides = [f"model.path={bert}", "learning_rate.peak=1e-3", "learning_rate.scale={classifier.*: 0.008}"]
    decay = "learning_rate.decay_every=10 steps"
    assert "1e-03, 8e-06 for classifier.*" in show(load_recipe("glue-90", overrides)).replace(
        "0.001", "1e-03"
    )
    assert "times 0.5 every 10 steps" in show(load_recipe("glue-90", [*overrides, decay]))
    beta = "learning_rate.beta_at_peak=0.8"
    assert "0.9, and 0.8 at the peak" in show(load_recipe("glue-90", [*overrides, beta]))
    held = ["learning_rate.curve=cosine", "learning_rate.hold=20 steps"]
    assert "cosine, each value kept for 20 steps" in show(load_recipe("glue-90", [*overrides, *held]))


def test_examples_of_a_local_file_are_counted(tmp_path: Path) -> None:
    model, train = tiny_bert(tmp_path / "model"), tmp_path / "train.csv"
    train.write_text("sentence,label\n" + "good,1\nbad,0\n" * 35)
    overrides = [f"model.path={model}", f"task.train={train}", f"task.validation={train}"]
    overrides += ["distillation=null", "task.text=sentence", "task.max_length=32"]
    recipe = load_recipe("sentiment-90", [*overrides, "budget.batch=4"])
    assert make_plan(recipe, 1).timetable.steps_per_epoch == 17
    limited = load_recipe("sentiment-90", [*overrides, "task.max_train=40", "budget.epochs=20"])
    assert make_plan(limited, 1).num_examples == 40


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["task.name=text_classification"], r"^task\.name: .*did you mean 'text-classification'"),
        (["task.validation=null"], r"^task\.validation: no data"),
        (["task.train=null"], r"^task\.train: no data"),
    ],
)
def test_data_that_no_download_brings_are_asked_for(tmp_path: Path, overrides: list[str], says: str) -> None:
    model, train = tiny_bert(tmp_path / "model"), tmp_path / "train.csv"
    train.write_text("sentence,label\n" + "good,1\nbad,0\n" * 35)
    given = [f"model.path={model}", f"task.train={train}", f"task.validation={train}", "distillation=null"]
    with pytest.raises(UserError, match=says):
        make_plan(load_recipe("sentiment-90", [*given, *overrides]), 1)


def law_of(bert: str, *overrides: str) -> dict[str, str]:
    """The values that the schedule law chose, by setting."""
    recipe = load_recipe("glue-90", [f"model.path={bert}", "task=null", *overrides])
    return {setting: value for setting, value, _ in law_table(make_plan(recipe, 1, 640)).rows}


def test_what_the_schedule_law_chose_is_shown(bert: str) -> None:
    chosen = law_of(bert, "learning_rate={dense: 1e-4}", "budget.epochs=15")
    assert chosen == {
        "model.start": "pretrained",
        "model.dropout": "0",
        "pruning.start": "step 90",
        "pruning.first": "60.2 %",
        "pruning.updates": "7",
        "pruning.end": "step 260",
        "learning_rate.warmup": "45 steps",
        "learning_rate.rewind": "false",
        "learning_rate.dense_peak": "0.55",
        "learning_rate.peak": "3.30e-04",
    }
    tuned = law_of(bert, "budget.epochs=10", f"distillation.teacher={bert}")
    assert (tuned["model.start"], tuned["pruning.start"]) == ("fine-tuned", "step 13")
    assert tuned["distillation.temperature"] == "2"
    learner = law_of(bert, "budget.epochs=10", f"distillation.teacher={bert}", "model.start=pretrained")
    assert learner["distillation.temperature"] == "1"
    assert (tuned["learning_rate.warmup"], tuned["learning_rate.dense_peak"]) == ("13 steps", "0.1")
    assert law_of(bert, "budget.epochs=500")["learning_rate.rewind"] == "true"
    given = law_of(bert, "budget.epochs=10", f"distillation.teacher={bert}", "distillation.temperature=2")
    assert "distillation.temperature" not in given


def test_what_the_recipe_says_is_not_the_laws_choice(bert: str) -> None:
    overrides = [
        "pruning.start=1",
        "pruning.end=90 %",
        "pruning.first=0.5",
        "pruning.updates=3",
        "budget.epochs=5",
        "learning_rate.peak=5e-5",
    ]
    assert set(law_of(bert, *overrides)) == {
        "model.start",
        "model.dropout",
        "learning_rate.warmup",
        "learning_rate.rewind",
        "learning_rate.dense_peak",
    }
    rate = ["learning_rate.warmup=0", "learning_rate.rewind=true", "learning_rate.dense_peak=1"]
    teacher = f"distillation={{teacher: {bert}, temperature: 3}}"
    model = ["model.start=pretrained", "model.dropout=model"]
    assert law_of(bert, *rate, teacher, *model, *overrides) == {}
    assert law_of(bert, "pruning=null", "budget.epochs=1") == {}


@pytest.mark.parametrize("recipe", ["glue-90", "sentiment-90", "smc-gmp"])
def test_every_neighbour_is_a_recipe(bert: str, recipe: str) -> None:
    given = [f"model.path={bert}", "task=null"]
    made = load_recipe(recipe, given)
    rows = sweep_table(make_plan(made, 1, 640)).rows
    assert len(rows) > 3
    for override, _ in rows:
        assert load_recipe(recipe, [*given, override]) != made


def test_a_recipe_in_steps_needs_no_examples(bert: str) -> None:
    text = show(load_recipe("smc-gmp", [f"model.path={bert}", "task.dataset=mine"]), examples=None)
    assert "3,000 steps of 16 examples" in text
    assert "epochs" not in text


def test_a_recipe_in_epochs_does(bert: str) -> None:
    with pytest.raises(UserError, match=r"counted in epochs.*--train-examples"):
        show(load_recipe("glue-90", [f"model.path={bert}", "task.dataset=mine"]), examples=None)


def test_published_data_have_a_known_number_of_examples(bert: str) -> None:
    text = show(load_recipe("glue-90", [f"model.path={bert}"]), examples=None)
    assert "counted with 67,349 training examples, the published number" in text
    assert "(67,349 examples)" in text


def test_a_recipe_without_a_task_is_planned_with_the_examples_given(bert: str) -> None:
    recipe = load_recipe("glue-90", [f"model.path={bert}", "task=null"])
    assert make_plan(recipe, 1, 320).timetable.total_steps == 300


def test_a_recipe_without_a_model_is_refused() -> None:
    with pytest.raises(UserError, match=r"model.path: value missing: a plan needs"):
        make_plan(load_recipe("glue-90", ["model=null"]), 1, 320)


def test_a_batch_that_the_ranks_cannot_share_is_refused(bert: str) -> None:
    with pytest.raises(UserError, match=r"budget.batch: 30 is not a multiple"):
        show(load_recipe("glue-90", [f"model.path={bert}", "budget.batch=30"]))


def test_a_model_of_70_billion_weights_takes_seconds(tmp_path: Path) -> None:
    LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
    ).save_pretrained(tmp_path)
    start = time.perf_counter()
    made = make_plan(load_recipe("glue-90", [f"model.path={tmp_path}"]), 8, 10_000)
    assert made.num_weights > 68e9
    assert time.perf_counter() - start < 60  # with weights it would take minutes and 280 GB


@pytest.mark.parametrize(("name", "magic"), [("plan.png", b"\x89PNG"), ("plan.svg", b"<?xml")])
@pytest.mark.parametrize("recipe", ["glue-90", "sentiment-dense", "smc-gmp"])
def test_a_picture_is_drawn_whole(recipe: str, name: str, magic: bytes, bert: str, tmp_path: Path) -> None:
    show(load_recipe(recipe, [f"model.path={bert}"]), plot=tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_same_picture_is_the_same_bytes(bert: str, tmp_path: Path) -> None:
    recipe = load_recipe("glue-90", [f"model.path={bert}"])
    for name in ("once.svg", "again.svg"):
        show(recipe, plot=tmp_path / name)
    assert (tmp_path / "once.svg").read_bytes() == (tmp_path / "again.svg").read_bytes()


def test_a_picture_that_cannot_be_written(bert: str, tmp_path: Path) -> None:
    recipe = load_recipe("glue-90", [f"model.path={bert}"])
    with pytest.raises(UserError, match=r"--plot: value .*plan.jpg: must end in .png or .svg"):
        show(recipe, plot=tmp_path / "plan.jpg")
    with pytest.raises(UserError, match=r"--plot: value .*: make the folder .*nowhere first"):
        show(recipe, plot=tmp_path / "nowhere" / "plan.png")


def test_masks_in_the_models_folder_must_fit_the_schedule(tmp_path: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(tiny_bert(tmp_path / "bert"))
    save_sparse(tmp_path / "bert", model)
    data = tiny_sentiment(tmp_path / "data")
    overrides = [
        *(f"model.path={tmp_path}/bert", "task.text=text", "distillation=null", "budget.epochs=60"),
        *(f"task.{split}={data}/{split}.csv" for split in ("train", "validation")),
    ]
    made = make_plan(load_recipe("sentiment-90", [*overrides, "pruning.first=0.85"]), 1)
    assert made.remarks[-1] == f"{tmp_path}/bert has masks: starts at sparsity 0.7998"
    says = (
        r"sparsity 0\.\d+ at the start, but only 0\.4\d+ at the mask update at step \d+: raise pruning.first"
    )
    with pytest.raises(UserError, match=says):
        make_plan(load_recipe("sentiment-90", [*overrides, "pruning.first=0.4"]), 1)
    with pytest.raises(UserError, match=r"dsprune.json: .* has shape .* there and None here"):
        make_plan(load_recipe("sentiment-90", [*overrides, "pruning.exclude=['*query*']"]), 1)

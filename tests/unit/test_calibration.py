"""Calibration, against entropies, errors and gradients computed independently."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_calibration_error

from dsprune.commands.calibrate.calibrate import calibrate
from dsprune.commands.calibrate.recipe_file import write_number
from dsprune.commands.calibrate.store_curves import Labels, enough_records, measure
from dsprune.distillation import FullSignal, distillation_loss, example_weights
from dsprune.distillation.calibration import GRID, Curve, CurveMeter, recommend
from dsprune.distillation.capture.forward import origin_of_data
from dsprune.distillation.store import (
    Output,
    ShardWriter,
    Store,
    StoreSpec,
    begin_store,
    fingerprints,
    finish_store,
    open_store,
    plan_store,
)
from dsprune.errors import UserError
from dsprune.model.pretrained import load_tokenizer
from dsprune.recipe import load_recipe
from dsprune.recipe.span import Ramp
from dsprune.tasks.build import build_task
from dsprune.testing.stores import TEMPERATURES, capture, logits, plan, samples, spec
from dsprune.testing.tiny import tiny_bert, tiny_sentiment
from tests.printing import printed

CLASSES = 4


def teacher(seed: int = 0, rows: int = 60, scale: float = 3.0, classes: int = CLASSES) -> Tensor:
    return scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


def curve(rows: Tensor, labels: Tensor | None = None, weights: Tensor | None = None) -> Curve:
    meter = CurveMeter(GRID, rows.shape[1])
    meter.add(FullSignal(rows), torch.ones(len(rows)) if weights is None else weights, labels)
    return meter.curve()


def confident(margin: float, rows: int = 400, classes: int = 2) -> Tensor:
    """Logits of a teacher whose margin for the first class is about this large in each row."""
    generator = torch.Generator().manual_seed(1)
    made = torch.zeros(rows, classes)
    made[:, 0] = margin * (1 + 0.2 * torch.randn(rows, generator=generator))
    return made


# ---- the quantities


def test_entropy_and_top_1_mass_are_their_definitions() -> None:
    for point in curve(teacher()).points:
        entropies, largest = [], []
        for row in teacher().tolist():
            powers = [math.exp(value / point.temperature) for value in row]
            probs = [power / sum(powers) for power in powers]
            entropies.append(-sum(p * math.log(p) for p in probs if p > 0))
            largest.append(max(probs))
        assert point.entropy == pytest.approx(sum(entropies) / 60, rel=1e-5)
        assert point.entropy_share == pytest.approx(sum(entropies) / 60 / math.log(CLASSES), rel=1e-5)
        assert point.top1_mass == pytest.approx(sum(largest) / 60, rel=1e-5)


def test_the_gradient_ratio_is_that_of_autograd_at_equal_logits_for_any_labels() -> None:
    rows, labels = teacher(), torch.arange(60) % CLASSES
    norms = []
    for row, label in zip(rows, labels, strict=True):
        student = torch.full((1, CLASSES), 0.3, requires_grad=True)
        losses = [distillation_loss(student, row[None], t) for t in GRID]
        losses.append(functional.cross_entropy(student, label[None]))
        norms.append([torch.autograd.grad(loss, student)[0].norm().item() for loss in losses])
    *kl, task = np.mean(norms, axis=0)
    found = [point.gradient_ratio for point in curve(rows).points]
    assert found == pytest.approx([value / task for value in kl], rel=1e-4)


def test_calibration_error_of_an_example_by_hand() -> None:
    """Two classes: 3 rows at 0.8, of which 1 is correct, and 1 row at 0.6, which is correct.

    At 0.8 the gap is 0.8 - 1/3, at 0.6 it is 0.4; weighted by 3/4 and 1/4 that makes 0.45.
    """
    probs = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.4, 0.6]])
    found = curve(probs.log(), torch.tensor([0, 1, 0, 1]))
    assert found.agreement == pytest.approx(2 / 4)
    at_1 = next(point for point in found.points if point.temperature == 1)
    assert at_1.calibration_error == pytest.approx(0.75 * (0.8 - 1 / 3) + 0.25 * 0.4, rel=1e-5)


def test_calibration_error_is_that_of_torchmetrics() -> None:
    rows, labels = teacher(), torch.arange(60) % CLASSES
    for point in curve(rows, labels).points:
        probs = (rows / point.temperature).softmax(-1)
        expected = multiclass_calibration_error(probs, labels, CLASSES, n_bins=15, norm="l1")
        assert point.calibration_error == pytest.approx(expected.item(), abs=1e-5)


def test_rows_without_a_label_count_except_where_labels_matter() -> None:
    rows, labels = teacher(), torch.arange(60) % CLASSES
    half = torch.where(torch.arange(60) < 30, labels, -1)
    found, known = curve(rows, half), curve(rows[:30], labels[:30])
    assert (found.num_rows, found.num_labels) == (60, 30)
    assert found.agreement == known.agreement
    for point, of_all, of_known in zip(found.points, curve(rows).points, known.points, strict=True):
        assert point.entropy == of_all.entropy
        assert point.calibration_error == pytest.approx(of_known.calibration_error)
        assert of_all.calibration_error is None


def test_samples_have_equal_weight_for_any_number_of_rows() -> None:
    rows = teacher(rows=4)
    weights = 2 * example_weights(torch.tensor([1, 3]))
    first, second = curve(rows[:1]), curve(rows[1:])
    for point, a, b in zip(curve(rows, weights=weights).points, first.points, second.points, strict=True):
        assert point.entropy == pytest.approx((a.entropy + b.entropy) / 2)
        assert point.gradient_ratio == pytest.approx((a.gradient_ratio + b.gradient_ratio) / 2)


def test_excluded_classes_change_nothing() -> None:
    """Rows that are narrower than others are padded with -inf."""
    narrow = curve(teacher())
    wide = curve(torch.cat([teacher(), torch.full((60, 3), -torch.inf)], 1))
    for a, b in zip(narrow.points, wide.points, strict=True):
        assert [a.entropy_share, a.top1_mass, a.gradient_ratio] == pytest.approx(
            [b.entropy_share, b.top1_mass, b.gradient_ratio], rel=1e-5
        )


@pytest.mark.parametrize("classes", [2, 5, 1000])
def test_a_higher_temperature_is_softer(classes: int) -> None:
    points = curve(teacher(classes=classes)).points
    assert [point.temperature for point in points] == list(GRID)
    entropy, top1 = [p.entropy_share for p in points], [p.top1_mass for p in points]
    assert entropy == sorted(entropy)
    assert top1 == sorted(top1, reverse=True)
    assert 0 <= entropy[0] < entropy[-1] <= 1 + 1e-6


def test_of_two_classes_a_higher_temperature_has_the_larger_gradient() -> None:
    ratios = [point.gradient_ratio for point in curve(teacher(classes=2)).points]
    assert ratios == sorted(ratios)


# ---- the rule


@pytest.mark.parametrize("classes", [2, 3, 20])
def test_an_over_confident_teacher_gets_a_temperature_well_above_1(classes: int) -> None:
    chosen = recommend([curve(confident(9, classes=classes))])
    share = {p.temperature: p.entropy_share for p in curve(confident(9, classes=classes)).points}
    assert 2 <= chosen <= 8
    assert share[1.0] < 0.1
    assert 0.35 < share[chosen] < 0.65


def test_the_temperature_grows_with_the_logits() -> None:
    assert [recommend([curve(confident(margin))]) for margin in (2.5, 5, 10, 20)] == [1.25, 2.5, 5, 10]


def test_a_soft_teacher_keeps_a_temperature_near_1() -> None:
    assert recommend([curve(confident(1.0))]) == 1
    assert recommend([curve(confident(3.0))]) <= 2


def test_the_ends_of_the_scale() -> None:
    assert recommend([curve(torch.zeros(9, 3))]) == 1, "a uniform teacher"
    assert recommend([curve(confident(1e4))]) == GRID[-1], "a one-hot teacher"


def test_of_two_outputs_the_mean_counts() -> None:
    hard, soft = curve(confident(16)), curve(confident(3))
    assert recommend([soft]) < recommend([hard, soft]) < recommend([hard])


def test_of_temperatures_below_1_the_nearest_is_taken() -> None:
    meter = CurveMeter([0.9, 0.5], 2)
    meter.add(FullSignal(confident(9)), torch.ones(400))
    assert recommend([meter.curve()]) == 0.9


# ---- from a store


def stored(folder: Path, kept: StoreSpec) -> Store:
    return open_store(capture(folder, plan(kept)))


def labels_by_output(kept: StoreSpec) -> Labels:
    """The most likely class of each row, except every third sample, for the samples of the test stores."""
    known = {}
    for name in kept.outputs:
        known[name] = {
            fingerprint.tobytes(): (logits(kept, name, sample).argmax(-1) + (i % 3 == 0)).tolist()
            for i, (fingerprint, sample) in enumerate(
                zip(fingerprints({"input_ids": samples()}), samples(), strict=True)
            )
        }
    return Labels(known)


def by_temperature(curve: Curve) -> dict[float, list[float | None]]:
    return {
        p.temperature: [p.entropy_share, p.top1_mass, p.gradient_ratio, p.calibration_error]
        for p in curve.points
    }


@pytest.mark.parametrize(("dtype", "error"), [("fp32", 1e-5), ("fp16", 2e-3), ("bf16", 2e-2)])
@pytest.mark.parametrize("kind", ["full", "hidden"])
def test_a_store_gives_the_same_statistics_as_the_teacher(
    tmp_path: Path, kind: str, dtype: str, error: float
) -> None:
    kept = spec(kind, dtype, outputs=2)
    store, labels = stored(tmp_path, kept), labels_by_output(kept)
    found = measure(store, store.fingerprints, labels)
    unique = list({tuple(sample): sample for sample in samples()}.values())
    names = fingerprints({"input_ids": unique})
    for name, curve_of_store in found.items():
        rows = [logits(kept, name, sample) for sample in unique]
        counts = torch.tensor([len(part) for part in rows])
        weights = example_weights(counts) * len(rows)
        expected = curve(torch.cat(rows), labels.of(name, names, counts), weights)
        assert curve_of_store.agreement == pytest.approx(expected.agreement, abs=error)
        theirs = by_temperature(expected)
        for temperature, values in by_temperature(curve_of_store).items():
            assert values[:3] == pytest.approx(theirs[temperature][:3], rel=error, abs=error)
            # A row next to the edge of a bin may change it.
            assert values[3] == pytest.approx(theirs[temperature][3], abs=error + 0.01)


def test_top_k_of_all_classes_equals_full_logits_at_the_stored_temperatures(tmp_path: Path) -> None:
    full, topk = (stored(tmp_path / kind, spec(kind, "fp32", classes=8)) for kind in ("full", "topk"))
    [expected] = measure(full, full.fingerprints, Labels()).values()
    [found] = measure(topk, topk.fingerprints, Labels()).values()
    assert [point.temperature for point in found.points] == list(TEMPERATURES)
    for temperature, values in by_temperature(found).items():
        if temperature in GRID:
            assert values[:3] == pytest.approx(by_temperature(expected)[temperature][:3], rel=1e-4)


def test_top_k_bounds_the_entropy_from_above(tmp_path: Path) -> None:
    full, topk = (stored(tmp_path / kind, spec(kind, "fp32")) for kind in ("full", "topk"))
    [expected] = measure(full, full.fingerprints, Labels()).values()
    [found] = measure(topk, topk.fingerprints, Labels()).values()
    truth = {point.temperature: point for point in expected.points}
    for point in found.points[:2]:
        assert truth[point.temperature].entropy_share < point.entropy_share < 1
        assert point.top1_mass == pytest.approx(truth[point.temperature].top1_mass, rel=1e-3)


def test_a_subset_of_the_records_is_reproducible(tmp_path: Path) -> None:
    store = stored(tmp_path, spec())
    names = [name.tobytes() for name in store.fingerprints]
    assert names == sorted(names)
    few, more = store.fingerprints[:5], store.fingerprints[:9]
    assert measure(store, few, Labels()) == measure(store, few, Labels()) != measure(store, more, Labels())


def test_a_vocabulary_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stored(tmp_path, spec())
    num_records = store.manifest.num_records
    assert enough_records(store) >= num_records
    [(name, output)] = store.manifest.spec.outputs.items()
    half = store.manifest.num_rows[name] * output.classes // 2
    monkeypatch.setattr("dsprune.commands.calibrate.store_curves.ENOUGH_ELEMENTS", half)
    assert enough_records(store) == num_records // 2
    assert f": {num_records // 2} of {num_records} records" in show(tmp_path)
    monkeypatch.setattr("dsprune.commands.calibrate.store_curves.ENOUGH_ELEMENTS", 1)
    assert enough_records(store) == 1, "however large the vocabulary"


# ---- the command


def show(folder: Path, **options: object) -> str:
    return printed(
        calibrate, folder, **{"recipe": None, "plot": None, "write": None, "max_records": None, **options}
    )


@pytest.mark.parametrize("kind", ["full", "topk", "hidden"])
def test_one_table_per_output_with_the_recommended_row_marked(tmp_path: Path, kind: str) -> None:
    text = show(capture(tmp_path, plan(spec(kind, outputs=2))))
    tables = text.count("top-1 mass")
    assert tables == 2
    [recommended] = re.findall(r"By the rule: T = ([\d.]+),", text)
    assert re.findall(r"-> +([\d.]+)", text) == [recommended] * 2
    assert "The rule is dsprune's own: the paper's could not be read." in text
    assert "no training has shown that students learn best there" in text
    assert "1 for a student that starts pretrained, 2 for one that starts fine-tuned" in text
    assert "all equal, as at initialisation" in text
    assert "No labels" in text
    assert ("top-k store supports only the temperatures it was made for" in text) == (kind == "topk")


def test_fewer_records_on_request(tmp_path: Path) -> None:
    text = show(capture(tmp_path, plan(spec())), max_records=7)
    assert re.search(r": 7 of \d\d records", text)


@pytest.mark.parametrize(("name", "magic"), [("t.png", b"\x89PNG"), ("t.svg", b"<?xml")])
def test_a_picture_is_drawn(tmp_path: Path, name: str, magic: bytes) -> None:
    text = show(capture(tmp_path / "store", plan(spec())), plot=tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)
    assert f"Picture: {tmp_path / name}" in text


def test_a_picture_that_cannot_be_written_is_refused_before_the_store_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--plot: value .*t.pdf: must end in .png or .svg"):
        show(tmp_path / "none", plot=tmp_path / "t.pdf")


def test_outputs_without_a_choice_are_refused(tmp_path: Path) -> None:
    capture(tmp_path, plan(spec(classes=1)))
    with pytest.raises(UserError, match=r"no row has two classes or more: there is no temperature"):
        show(tmp_path)


# ---- the labels


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with a tiny model and 64 examples."""
    folder = tmp_path_factory.mktemp("recipe")
    data = tiny_sentiment(folder)
    task = {"name": "text-classification", "train": str(data / "train.csv")}
    model = {"path": str(tiny_bert(folder / "bert"))}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({"model": model, "task": task, "budget": {"epochs": 1, "batch": 8}}))
    return path


def store_of_labels(folder: Path, recipe: Path, *overrides: str) -> Path:
    """The store of a teacher that predicts the label of each record, except every fourth."""
    loaded = load_recipe(str(recipe), overrides)
    task = build_task(loaded.task)
    tokenizer = load_tokenizer(loaded.model.path)
    data = task.prepare("train", tokenizer)
    kept = StoreSpec(kind="full", outputs={"logits": Output(classes=2)})
    planned = plan_store(kept, origin_of_data(task, tokenizer), fingerprints(task.samples(data)))
    begin_store(folder, planned)
    writer = ShardWriter(planned, 0)
    labels = torch.tensor(data["labels"][:])[writer.samples.copy()]
    rows = 4.0 * functional.one_hot(labels, 2)
    rows[::4] *= -1
    writer.put(range(len(rows)), {"logits": rows})
    writer.save(folder)
    finish_store(folder, planned, {})
    return folder


def test_a_recipe_gives_the_labels_by_sample_in_any_order(tmp_path: Path, recipe: Path) -> None:
    folder = store_of_labels(tmp_path / "store", recipe)
    backwards = tmp_path / "backwards.csv"
    header, *lines = (recipe.parent / "train.csv").read_text().splitlines()
    backwards.write_text("\n".join([header, *lines[::-1]]))
    text = show(folder, recipe=load_recipe(str(recipe)))
    num_records = open_store(folder).manifest.num_records
    right = 1 - math.ceil(num_records / 4) / num_records
    assert (
        f"{num_records} rows, {num_records} with a label, teacher right in {100 * right:.2f} % of them"
        in text
    )
    assert "looks better here than on others" in text
    assert show(folder, recipe=load_recipe(str(recipe), [f"task.train={backwards}"])) == text


def test_labels_of_a_subset_of_the_samples_are_used(tmp_path: Path, recipe: Path) -> None:
    folder = store_of_labels(tmp_path, recipe)
    text = show(folder, recipe=load_recipe(str(recipe), ["task.max_train=9"]))
    assert re.search(r"rows, [5-9] with a label", text), "some of the nine may be equal"


def test_a_recipe_for_other_samples_is_refused(tmp_path: Path, recipe: Path) -> None:
    folder = store_of_labels(tmp_path / "store", recipe)
    other = tiny_sentiment(tmp_path / "other", 9, seed=1) / "train.csv"
    with pytest.raises(UserError, match=r"holds no training example of recipe 'tiny': give the"):
        show(folder, recipe=load_recipe(str(recipe), [f"task.train={other}"]))


def test_a_recipe_with_another_encoding_is_refused(tmp_path: Path, recipe: Path) -> None:
    folder = store_of_labels(tmp_path / "store", recipe)
    shorter = load_recipe(str(recipe), ["task.max_length=4"])
    with pytest.raises(
        UserError, match=r"preprocessing is .*of at most 128 .*in the store and .*of at most 4 "
    ):
        show(folder, recipe=shorter)


@pytest.mark.parametrize("section", ["task", "model"])
def test_a_recipe_without_data_is_refused(tmp_path: Path, recipe: Path, section: str) -> None:
    without = load_recipe(str(recipe), [f"{section}=null"])
    with pytest.raises(
        UserError, match=r"recipe 'tiny': calibrate needs the sections model and task: add them"
    ):
        show(capture(tmp_path, plan(spec())), recipe=without)


# ---- the recipe file

RECIPE = """\
# My recipe.
name: mine   # not the file's
budget: {epochs: 1, batch: 8}

distillation:
  # by whom
  teacher: runs/dense  # a folder
  temperature: 2.0     # the usual
  hardness: 1.0
pruning: null
"""


def written(tmp_path: Path, text: str, temperature: float = 3.15) -> str:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode())
    write_number(path, "distillation", "temperature", temperature)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.yaml"]
    return path.read_bytes().decode()


def test_one_number_changes_and_nothing_else(tmp_path: Path) -> None:
    text = written(tmp_path, RECIPE)
    assert text == RECIPE.replace("2.0  ", "3.15  ")
    loaded = load_recipe(str(tmp_path / "mine.yaml"))
    assert loaded.distillation.temperature == Ramp(first=3.15, final=3.15)


def test_a_missing_temperature_gets_a_line(tmp_path: Path) -> None:
    without = RECIPE.replace("  temperature: 2.0     # the usual\n", "")
    line = "  teacher: runs/dense  # a folder\n"
    assert written(tmp_path, without) == without.replace(line, line + "  temperature: 3.15\n")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("distillation: {teacher: x}", "distillation: {teacher: x, temperature: 4}"),
        ("distillation: {temperature: 2, teacher: x} # 1", "distillation: {temperature: 4, teacher: x} # 1"),
        ("distillation:\n  teacher: x", "distillation:\n  teacher: x\n  temperature: 4"),
        ("distillation:\r\n  temperature: 1\r\nseed: 1", "distillation:\r\n  temperature: 4\r\nseed: 1"),
        ('é: "temperature: 1"\ndistillation:\n "temperature": 1', None),
    ],
)
def test_every_way_of_writing_the_section(tmp_path: Path, before: str, after: str | None) -> None:
    assert written(tmp_path, before, 4.0) == (after or before[:-1] + "4")


@pytest.mark.parametrize(
    "text", ["seed: 1", "distillation: null", "distillation:\n", "- 1", "", "a: 1\nb: {}"]
)
def test_a_file_without_the_section_is_refused_and_not_changed(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"--write: value .*mine.yaml: has no section distillation: add it"):
        written(tmp_path, text)
    assert (tmp_path / "mine.yaml").read_text() == text


@pytest.mark.parametrize(
    "text",
    [
        "distillation:\n  temperature: {first: 1, final: 4}\n",
        "distillation:\n  temperature:\n",
        "a: &a {temperature: 2}\ndistillation: *a\n",
    ],
)
def test_a_value_that_cannot_be_changed_alone_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        UserError, match=r"temperature is not a plain number there, or is shared .*: set it by hand"
    ):
        written(tmp_path, text)
    assert (tmp_path / "mine.yaml").read_text() == text


def test_an_invalid_or_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--write: value .*mine.yaml: not valid YAML: .*"):
        written(tmp_path, "a: [")
    with pytest.raises(UserError, match=r"--write: value .*sst2: no such file: give a recipe file"):
        write_number(tmp_path / "sst2", "distillation", "temperature", 2.0)


def test_the_recommendation_goes_into_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(RECIPE)
    text = show(capture(tmp_path / "store", plan(spec())), write=recipe)
    distillation = yaml.safe_load(recipe.read_text())["distillation"]
    assert f"T = {distillation['temperature']:g}," in text
    assert "# the usual" in recipe.read_text()
    recipe.write_text("seed: 1")
    with pytest.raises(UserError, match=r"has no section distillation"):
        show(tmp_path / "store", write=recipe)

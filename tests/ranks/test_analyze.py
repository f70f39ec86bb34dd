"""The analysis against pruning by hand, on one rank and on two; a planted sensitive layer is ranked worst."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from torch import nn
from transformers import AutoModelForSequenceClassification

from dsprune.commands.analyze.analyze import analyze, leave_out_unused_rows, make_analysis
from dsprune.commands.analyze.measure import Extent, pruned, set_up
from dsprune.commands.analyze.page_sections import UNUSED, component_table
from dsprune.commands.analyze.recovery import Recovery
from dsprune.commands.analyze.result import FILE, Analysis, read_analysis, write_analysis
from dsprune.commands.report import report
from dsprune.errors import UserError
from dsprune.model.components import find_components
from dsprune.model.prunable import choose_weights
from dsprune.ranks.collectives import Comm
from dsprune.ranks.ranks import Ranks
from dsprune.recipe import Recipe, load_recipe
from dsprune.testing.engines import make_recipe
from dsprune.testing.pool import RankPool
from dsprune.testing.tiny import tiny_bert, tiny_sentiment

CPU = torch.device("cpu")
QUIET = Console(quiet=True)
PLANTED = (1, "attention value")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A trained model whose second layer depends on a few of its values."""
    folder = tmp_path_factory.mktemp("analyze")
    data = tiny_sentiment(folder / "data", 320, 64)
    bert = tiny_bert(folder / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    made = load_recipe("sentiment-90", [
        f"model.path={bert}", f"task.train={data}/train.csv", f"task.validation={data}/validation.csv",
        "task.text=text", "task.max_length=32", "pruning.sparsity=0.8", "learning_rate.peak=5e-3",
    ])  # fmt: skip
    evaluator = set_up(made, Extent((), 60), CPU)
    assert isinstance(evaluator.recovery, Recovery)
    evaluator.recovery.train(evaluator.model, {})
    assert evaluator.score() > 0.95, "it has learnt"
    _plant(evaluator.model)
    assert evaluator.score() > 0.95, "and still knows"
    evaluator.model.save_pretrained(bert)
    return made


def _plant(model: Any) -> None:
    """Add large weights that cancel to one matrix of one layer: the function only changes if some are pruned.

    The output of a layer norm, without scale and shift, has a mean of 0, so a row of its inverse scales adds only a
    constant.
    """
    layers = model.bert.encoder.layer
    norm, value = layers[PLANTED[0] - 1].output.LayerNorm, layers[PLANTED[0]].attention.self.value
    with torch.no_grad():
        value.weight += 1000 / norm.weight
        value.bias -= 1000 * (norm.bias / norm.weight).sum()


def analyze_alone(recipe: Recipe, *sparsities: float, layers: bool = True, steps: int = 0) -> Analysis:
    return make_analysis(recipe, Extent(sparsities, steps, layers, 16), CPU, QUIET)


@pytest.fixture(scope="module")
def analysis(recipe: Recipe) -> Analysis:
    return analyze_alone(recipe, 0.5)


def by_hand(recipe: Recipe, names: list[str], sparsity: float) -> float:
    """The accuracy with the smallest weights of some tensors at zero, by a sort."""
    evaluator = set_up(recipe, Extent(batch_size=16), CPU)
    weights = dict(evaluator.model.named_parameters())
    flat = torch.cat([weights[name].detach().abs().view(-1) for name in names])
    threshold = flat.sort().values[round(sparsity * flat.numel()) - 1]
    with torch.no_grad():
        for name in names:
            weights[name].masked_fill_(weights[name].abs() <= threshold, 0.0)
    return evaluator.score()


def test_one_shot_numbers_are_those_of_pruning_by_hand(recipe: Recipe, analysis: Analysis) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(recipe.model.path)
    components = {component.name: component for component in find_components(model)}
    for name in ("word embeddings", "attention value", "feed-forward out", "head"):
        [finding] = [finding for finding in analysis.findings if finding.name == name]
        tensors = [tensor.name for tensor in components[name].tensors]
        for sparsity in (0.5, 0.8):
            assert finding.scores[sparsity] == by_hand(recipe, tensors, sparsity), (name, sparsity)
    [loss] = [loss for loss in analysis.layers if (loss.layer, loss.component) == PLANTED]
    assert loss.score == by_hand(recipe, ["bert.encoder.layer.1.attention.self.value.weight"], 0.8)


def test_the_planted_layer_is_ranked_worst(analysis: Analysis) -> None:
    assert analysis.dense > 0.95
    worst = analysis.layers[0]
    assert (worst.layer, worst.component) == PLANTED
    assert worst.score < 0.8
    assert worst.score < analysis.layers[1].score
    encoder = [finding for finding in analysis.ordered() if finding.is_prunable]
    assert encoder[-1].name == PLANTED[1]
    assert analysis.left_dense()[PLANTED[1]] == "costs too much"


def test_what_saves_no_computation_is_left_dense(analysis: Analysis) -> None:
    dense = analysis.left_dense()
    for name in ("word embeddings", "position embeddings", "norms and biases", "head"):
        assert dense[name] == "saves no computation"
    assert "feed-forward in" not in dense
    costs = [analysis.cost(finding) for finding in analysis.ordered()]
    assert costs == sorted(costs)


def test_the_fragment_prunes_what_is_recommended(recipe: Recipe, analysis: Analysis) -> None:
    pruning = yaml.safe_load(analysis.fragment())["pruning"]
    model = AutoModelForSequenceClassification.from_pretrained(recipe.model.path)
    found = {
        t.name for t in choose_weights(model, pruning.get("include", ()), pruning.get("exclude", ())).tensors
    }
    dense = analysis.left_dense()
    wanted = {t.name for c in find_components(model) if c.name not in dense for t in c.tensors}
    assert found == wanted


def test_the_model_is_left_as_it_was(recipe: Recipe) -> None:
    evaluator = set_up(recipe, Extent((), 2, batch_size=16), CPU)
    before = {name: value.clone() for name, value in evaluator.model.state_dict().items()}
    [component] = [c for c in find_components(evaluator.model) if c.name == "feed-forward in"]
    with pruned(evaluator.model, component.tensors, 0.8) as masks:
        zeros = sum(int((~mask).sum()) for mask in masks.values())
        assert zeros == round(0.8 * component.num_weights)
    evaluator.score_recovered(component.tensors, 0.8)
    assert all(torch.equal(before[name], value) for name, value in evaluator.model.state_dict().items())


def test_recovery_trains_what_is_kept_and_nothing_else(recipe: Recipe) -> None:
    evaluator = set_up(recipe, Extent((), 3, batch_size=16), CPU)
    [component] = [c for c in find_components(evaluator.model) if c.name == "feed-forward in"]
    weights = dict(evaluator.model.named_parameters())
    with pruned(evaluator.model, component.tensors, 0.8) as masks:
        before = {name: weights[name].detach().clone() for name in masks}
        evaluator.recovery.train(evaluator.model, masks)
        for name, mask in masks.items():
            assert not weights[name][~mask].any()
            assert (weights[name] != before[name])[mask].float().mean() > 0.9


def analyze_on_rank(comm: Comm, recipe: Recipe) -> Analysis:
    return make_analysis(recipe, Extent((), 1, False, 16), CPU, QUIET)


def test_two_ranks_find_what_one_does(two_ranks: RankPool, recipe: Recipe) -> None:
    recipe = recipe.model_copy(update={"task": recipe.task.model_copy(update={"max_validation": 21})})
    alone = analyze_alone(recipe, layers=False, steps=1)
    found = two_ranks.run(2, analyze_on_rank, recipe)
    assert found[0] == found[1]
    for mine, theirs in zip(alone.findings, found[0].findings, strict=True):
        assert mine.scores == theirs.scores
        # Sums over ranks round differently.
        assert mine.recovered == pytest.approx(theirs.recovered, abs=0.05)


def test_the_files_and_their_place_in_a_report(recipe: Recipe, analysis: Analysis, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    analyze(recipe, Extent((0.5,), batch_size=16), tmp_path, Ranks(0, 0, 1), console)
    assert read_analysis(tmp_path).model_copy(update={"origin": ""}) == analysis.model_copy(
        update={"origin": ""}
    )
    with (tmp_path / "components.csv").open() as file:
        rows = {row["component"]: row for row in csv.DictReader(file)}
    assert rows["head"]["weights"] == "64"
    assert rows["head"]["zeros save"] == "205 bytes"
    assert list(rows) == [*(finding.name for finding in analysis.ordered()), UNUSED]
    page = (tmp_path / "report.html").read_text()
    for part in ("Worst: attention value of layer 1", "One sparsity in each convention", "pruning:"):
        assert part in page
    report([tmp_path], tmp_path / "page", None, False, console)
    assert "Benefit and harm" in (tmp_path / "page" / "report.html").read_text()


def test_the_rows_of_unused_tokens_cost_nothing(recipe: Recipe, analysis: Analysis) -> None:
    few = recipe.task.model_copy(update={"max_train": 2, "max_validation": 2})
    evaluator = set_up(recipe.model_copy(update={"task": few}), Extent(batch_size=16), CPU)
    dense = evaluator.score()
    unused = leave_out_unused_rows(evaluator, recipe.model)
    assert unused.score == dense
    tokens = {token for row in evaluator.data["input_ids"] for token in row}
    assert len(tokens) < unused.num_kept < unused.num_rows, (
        "the special tokens and those of the training data too"
    )
    [embeddings] = [finding for finding in analysis.findings if finding.name == "word embeddings"]
    share = (unused.num_rows - unused.num_kept) / unused.num_rows
    assert unused.num_weights == round(share * embeddings.num_weights)
    table = component_table(analysis.model_copy(update={"dense": dense, "unused": unused}))
    row = dict(zip(table.columns, table.rows[-1], strict=True))
    assert row["component"] == UNUSED
    assert (row["weights"], row["lost at 80 %"]) == (f"{unused.num_weights:,}", "0.00")
    assert f"leaves out {unused.num_rows - unused.num_kept:,} of {unused.num_rows:,}" in table.note


def test_a_model_that_needs_all_rows_has_none_to_leave_out(recipe: Recipe, analysis: Analysis) -> None:
    evaluator = set_up(recipe, Extent(batch_size=16), CPU)
    model: Any = evaluator.model
    model.other = torch.nn.Module()
    model.other.weight = model.get_input_embeddings().weight
    assert leave_out_unused_rows(evaluator, recipe.model) is None
    table = component_table(analysis.model_copy(update={"unused": None}))
    assert [row[0] for row in table.rows] == [finding.name for finding in analysis.ordered()]
    assert "all embedding rows are needed" in table.note


def test_a_metric_that_is_nan_is_read_again(tmp_path: Path, analysis: Analysis) -> None:
    finding = analysis.findings[0].model_copy(update={"scores": {0.5: math.nan}, "recovered": math.nan})
    write_analysis(analysis.model_copy(update={"findings": (finding,), "dense": math.nan}), tmp_path)
    found = read_analysis(tmp_path)
    assert all(map(math.isnan, (found.dense, found.findings[0].scores[0.5], found.findings[0].recovered)))


def test_a_metric_that_is_nan_counts_as_lost(analysis: Analysis) -> None:
    first, *others = analysis.findings
    lost = first.model_copy(update={"scores": dict.fromkeys(first.scores, math.nan), "recovered": None})
    found = analysis.model_copy(update={"findings": (lost, *others)})
    assert found.harm(lost) == analysis.dense


@pytest.mark.parametrize("change", [{"model": 3}, {"unknown": 0}, {"findings": [{}]}])
def test_a_damaged_analysis_is_named(tmp_path: Path, analysis: Analysis, change: dict[str, Any]) -> None:
    (tmp_path / FILE).write_text(json.dumps(json.loads(analysis.model_dump_json()) | change))
    with pytest.raises(UserError, match=r"analysis.json: not an analysis .*: run dsprune analyze again"):
        read_analysis(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pruning": None}, "an analysis needs a target: add pruning.sparsity"),
        ({"model": None}, "an analysis needs the sections model and task"),
    ],
)
def test_the_recipe_must_say_what_to_analyse(recipe: Recipe, change: dict[str, None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        analyze_alone(recipe.model_copy(update=change))


def test_a_model_whose_metric_is_nan_is_refused(tmp_path: Path) -> None:
    bert = tiny_bert(tmp_path / "bert", id2label={0: "number"}, label2id={"number": 0})
    model = AutoModelForSequenceClassification.from_pretrained(bert)
    torch.nn.init.zeros_(model.classifier.weight)  # all predictions are equal
    model.save_pretrained(bert)
    (tmp_path / "data.csv").write_text("text,label\n" + "".join(f"word,{number}.5\n" for number in range(8)))
    recipe = load_recipe("sentiment-90", [
        f"model.path={tmp_path}/bert", "task.name=regression", f"task.train={tmp_path}/data.csv",
        f"task.validation={tmp_path}/data.csv", "task.text=text", "task.max_length=32",
    ])  # fmt: skip
    told = pytest.warns(UserWarning, match="variance of predictions")
    with told, pytest.raises(UserError, match=r"^model.path=.*/bert: its pearson is nan"):
        analyze_alone(recipe)


def step_apart(comm: Comm) -> dict[str, list[float]]:
    """One step of weights of which only the first rank uses `first`, and none uses `none`; return all weights."""
    model = nn.ParameterDict({name: nn.Parameter(torch.ones(2)) for name in ("first", "all", "none")})
    used = [model["all"], *([model["first"]] if comm.rank == 0 else [])]
    torch.stack(used).sum().backward()
    nothing: Any = None
    recipe = make_recipe().model_copy(update={"gradient_clipping": 0.0})
    Recovery(recipe, 1, nothing, nothing, CPU)._step(
        model, {}, torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.5)
    )
    return {name: weight.tolist() for name, weight in model.named_parameters()}


def test_a_weight_that_only_one_rank_uses_has_its_gradient_on_all() -> None:
    expected = {"first": [0.25, 0.25], "all": [-0.25, -0.25], "none": [1.0, 1.0]}
    with RankPool(2) as pool:
        assert pool.run(2, step_apart) == [expected, expected]

"""What every kind of task promises to training, evaluation and distillation, in one process."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig

from dsprune.commands.plan.make import make_plan
from dsprune.distillation.store import fingerprints
from dsprune.errors import UserError
from dsprune.model.pretrained import load_tokenizer
from dsprune.recipe import Recipe
from dsprune.recipe.sections import Task as TaskSettings
from dsprune.tasks.task import build_task
from dsprune.testing.kinds import models
from dsprune.testing.kinds.kind import KINDS, Kind
from dsprune.train.evaluation import evaluate

pytestmark = pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces:FutureWarning")


class Ready:
    """A kind with its task, model and encoded examples."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.path = str(models.save(folder / "model", kind.model, kind.tokenizer(folder)))
        self.settings = TaskSettings(**{"name": kind.task, "max_length": 40, **kind.write(folder / "data")})
        self.tokenizer = load_tokenizer(self.path)
        self.task = build_task(self.settings).for_tokenizer(self.tokenizer)
        self.train = self.task.prepare("train", self.tokenizer)
        self.validation = self.task.prepare("validation", self.tokenizer)
        torch.manual_seed(0)
        self.model = self.task.build_model(self.path, self.tokenizer).eval()
        self.collate = self.task.collate(self.tokenizer)

    def batch(self, num: int = 5) -> dict[str, Any]:
        return self.collate([self.train[i] for i in range(num)])


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def ready(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    return Ready(request.param, tmp_path_factory.mktemp(request.param.task))


def test_lengths_are_those_of_the_longest_input(ready: Ready) -> None:
    def longest(ids: list[Any]) -> int:
        return max(map(len, ids)) if isinstance(ids[0], list) else len(ids)

    assert ready.train["length"][:] == list(map(longest, ready.train["input_ids"][:]))
    assert max(ready.train["length"][:]) <= ready.settings.max_length


def test_a_plan_counts_the_examples_that_training_has(ready: Ready) -> None:
    sections = {"name": "planned", "model": {"path": ready.path}, "budget": {"epochs": 1, "batch": 4}}
    recipe = Recipe(task=ready.settings, pruning={"sparsity": 0.5}, **sections)  # type: ignore[arg-type]
    assert make_plan(recipe, 1).num_examples == len(ready.train)


def test_the_model_takes_a_batch_as_it_comes(ready: Ready) -> None:
    assert torch.isfinite(ready.model(**ready.batch()).loss)


def test_rows_are_as_many_and_as_wide_as_promised(ready: Ready) -> None:
    batch = ready.batch()
    outputs = ready.model(**ready.task.inputs(batch))
    rows = ready.task.logit_rows(outputs, batch)
    promised = ready.task.num_rows(ready.train)
    assert {name: part.logits.shape[1] for name, part in rows.items()} == ready.task.classes(
        ready.model.config
    )
    for name, part in rows.items():
        counts = [1] * 5 if part.counts is None else part.counts.tolist()
        assert counts == ([1] * 5 if promised is None else promised[name][:5].tolist())
        assert len(part.logits) == sum(counts)


def test_labels_of_rows_give_the_models_own_loss(ready: Ready) -> None:
    batch = ready.batch(1)  # alone, since some models' losses look at padding too
    labels = ready.task.row_labels(ready.train.select([0]))
    if not labels:  # a number is no class
        assert ready.model.config.problem_type == "regression"
        return
    rows = ready.task.logit_rows(ready.model(**ready.task.inputs(batch)), batch)
    losses = [
        functional.cross_entropy(part.logits, torch.tensor([label for one in labels[name] for label in one]))
        for name, part in rows.items()
    ]
    torch.testing.assert_close(torch.stack(losses).mean(), ready.model(**batch).loss, rtol=1e-4, atol=1e-5)


def test_the_last_layer_makes_the_rows(ready: Ready) -> None:
    heads = ready.task.heads(ready.model)
    batch = ready.batch()
    inputs: dict[str, torch.Tensor] = {}
    for name, head in heads.items():
        head.register_forward_pre_hook(lambda layer, args, name=name: inputs.update({name: args[0]}))
    outputs = ready.model(**ready.task.inputs(batch))
    for name, part in ready.task.logit_rows(inputs, batch).items() if heads else ():
        expected = ready.task.logit_rows(outputs, batch)[name].logits
        torch.testing.assert_close(heads[name](part.logits), expected, rtol=1e-4, atol=1e-5)


def test_rows_do_not_depend_on_what_they_are_batched_with(ready: Ready) -> None:
    batch = ready.batch()
    together = ready.task.logit_rows(ready.model(**ready.task.inputs(batch)), batch)
    for name, part in together.items():
        alone = []
        for example in range(5):
            one = ready.collate([ready.train[example]])
            alone.append(ready.task.logit_rows(ready.model(**ready.task.inputs(one)), one)[name].logits)
        torch.testing.assert_close(torch.cat(alone), part.logits, rtol=1e-3, atol=1e-4)


def test_a_sample_is_known_by_what_decides_its_rows(ready: Ready) -> None:
    names = fingerprints(ready.task.samples(ready.train))
    rows = ready.task.num_rows(ready.train)
    for name in np.unique(names):
        same = names == name
        for counts in (rows or {}).values():
            assert len(set(counts[same].tolist())) == 1


@pytest.mark.parametrize("batch_size", [1, 3])
def test_metrics_do_not_depend_on_the_batch_size(ready: Ready, batch_size: int) -> None:
    def metrics(size: int) -> dict[str, float]:
        return evaluate(
            ready.model,
            ready.task,
            ready.validation,
            ready.collate,
            batch_size=size,
            device=torch.device("cpu"),
        )

    assert metrics(batch_size) == pytest.approx(metrics(64), rel=1e-3, abs=1e-2, nan_ok=True)


def test_a_folder_that_was_written_is_opened_again(ready: Ready, tmp_path: Path) -> None:
    ready.model.save_pretrained(tmp_path)
    ready.tokenizer.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    alone = ready.settings.model_copy(update={"train": None})
    task = build_task(alone).for_model(config).for_tokenizer(ready.tokenizer)
    model = task.build_model(str(tmp_path), load_tokenizer(str(tmp_path)), new_head=False).eval()
    batch = ready.batch()
    torch.testing.assert_close(model(**batch).loss, ready.model(**batch).loss)


def test_an_empty_model_has_the_same_weights(ready: Ready) -> None:
    config = AutoConfig.from_pretrained(ready.path)
    with torch.device("meta"):
        empty = ready.task.new_model(config)
    shapes = {name: parameter.shape for name, parameter in ready.model.named_parameters()}
    assert {name: parameter.shape for name, parameter in empty.named_parameters()} == shapes


def test_the_data_are_missing(ready: Ready) -> None:
    update = {"train": None, "validation": None}
    task = build_task(ready.settings.model_copy(update=update))
    with pytest.raises(UserError, match=r"^task\.(train: no data: give|dataset: .*out of reach)"):
        task.load("train")

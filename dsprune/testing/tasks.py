"""Checks for every task: encoding, batches, predictions, scores and distilled outputs agree.

A test of your own task makes a small model and small data, and runs all checks:

    def test_my_task(tmp_path):
        check_task(ReadyTask(model, {"name": "my-task", "train": ..., "validation": ...}))
"""

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close
from torch.utils.hooks import RemovableHandle
from transformers import AutoConfig

from dsprune.commands.plan.make import make_plan
from dsprune.distillation.store import fingerprints
from dsprune.model.pretrained import load_tokenizer
from dsprune.recipe import Recipe
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.build import build_task
from dsprune.tasks.task import LogitRows
from dsprune.train.evaluation import evaluate

__all__ = ["CHECKS", "ReadyTask", "check_task"]

NUM = 5
"""Number of examples in a batch; the training data must have at least this number."""


class ReadyTask:
    """A task with its model, tokenizer and encoded examples.

    Args:
        model: folder of a small model, with its tokenizer.
        settings: the recipe's task section, with a small `train` and `validation`.
    """

    def __init__(self, model: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = str(model)
        self.settings = TaskSettings(**settings)
        self.tokenizer = load_tokenizer(self.path)
        self.task = build_task(self.settings).for_tokenizer(self.tokenizer)
        self.train = self.task.prepare("train", self.tokenizer)
        self.validation = self.task.prepare("validation", self.tokenizer)
        torch.manual_seed(0)  # for the new head
        self.model = self.task.build_model(self.path, self.tokenizer).eval()
        self.collate = self.task.collate(self.tokenizer)

    def batch(self, first: int = 0, num: int = NUM) -> dict[str, Tensor]:
        """Return a batch of training examples."""
        return self.collate([self.train[place] for place in range(first, first + num)])

    def rows(self, batch: dict[str, Tensor]) -> dict[str, LogitRows]:
        """Return the model's rows for a batch."""
        return self.task.logit_rows(self.model(**self.task.inputs(batch)), batch)


def check_task(ready: ReadyTask) -> None:
    """Run all checks.

    Raises:
        AssertionError: a check failed.
    """
    for check in CHECKS:
        check(ready)


def lengths_are_those_of_the_longest_input(ready: ReadyTask) -> None:
    """Check the column `length`, by which training sorts and plans."""

    def longest(ids: list[Any]) -> int:
        return max(map(len, ids)) if isinstance(ids[0], list) else len(ids)

    lengths = ready.train["length"][:]
    assert lengths == list(map(longest, ready.train["input_ids"][:]))
    assert max(lengths) <= ready.settings.max_length


def a_plan_counts_the_training_examples(ready: ReadyTask) -> None:
    """Check that `dsprune plan` counts the training examples correctly."""
    sections: dict[str, Any] = {"name": "planned", "model": {"path": ready.path}}
    sections |= {"budget": {"epochs": 1, "batch": 4}, "pruning": {"sparsity": 0.5}}
    sections["learning_rate"] = {"peak": 1e-4}
    assert make_plan(Recipe(task=ready.settings, **sections), 1).num_examples == len(ready.train)


def a_batch_has_a_finite_loss(ready: ReadyTask) -> None:
    """Check that the model accepts a batch of `collate`."""
    assert torch.isfinite(ready.model(**ready.batch()).loss)


def rows_are_as_many_and_as_wide_as_promised(ready: ReadyTask) -> None:
    """Check `logit_rows` against `classes` and `num_rows`."""
    rows, promised = ready.rows(ready.batch()), ready.task.num_rows(ready.train)
    assert {name: part.logits.shape[1] for name, part in rows.items()} == ready.task.classes(
        ready.model.config
    )
    for name, part in rows.items():
        counts = [1] * NUM if part.counts is None else part.counts.tolist()
        assert counts == ([1] * NUM if promised is None else promised[name][:NUM].tolist())
        assert len(part.logits) == sum(counts)


def labels_of_rows_give_the_models_loss(ready: ReadyTask) -> None:
    """Check `row_labels` by the cross-entropy of the rows; a task without classes has none."""
    batch = ready.batch(num=1)  # the losses of some models include padding
    labels = ready.task.row_labels(ready.train.select([0]))
    if not labels:
        assert ready.model.config.problem_type == "regression" or ready.settings.loss == "margin"
        return
    losses = [
        functional.cross_entropy(part.logits, torch.tensor([label for one in labels[name] for label in one]))
        for name, part in ready.rows(batch).items()
    ]
    assert_close(torch.stack(losses).mean(), ready.model(**batch).loss, rtol=1e-4, atol=1e-5)


def the_last_layers_make_the_rows(ready: ReadyTask) -> None:
    """Check that `heads`, if there are any, turn the rows of their inputs into the rows of the outputs."""
    inputs: dict[str, Tensor] = {}

    def keep(name: str, layer: nn.Linear) -> RemovableHandle:
        return layer.register_forward_pre_hook(lambda _, arguments: inputs.update({name: arguments[0]}))

    batch, heads = ready.batch(), ready.task.heads(ready.model)
    hooks = [keep(name, head) for name, head in heads.items()]
    expected = ready.rows(batch)
    for hook in hooks:
        hook.remove()
    for name, part in ready.task.logit_rows(inputs, batch).items() if heads else ():
        assert_close(heads[name](part.logits), expected[name].logits, rtol=1e-4, atol=1e-5)


def rows_do_not_depend_on_the_batch(ready: ReadyTask) -> None:
    """Check that an example has the same rows alone and together with longer ones."""
    alone = [ready.rows(ready.batch(first, 1)) for first in range(NUM)]
    for name, part in ready.rows(ready.batch()).items():
        assert_close(torch.cat([rows[name].logits for rows in alone]), part.logits, rtol=1e-3, atol=1e-4)


def equal_samples_have_equally_many_rows(ready: ReadyTask) -> None:
    """Check that `samples` has everything that determines the number of rows of an example."""
    names = fingerprints(ready.task.samples(ready.train))
    for counts in (ready.task.num_rows(ready.train) or {}).values():
        for name in np.unique(names):
            assert len(set(counts[names == name].tolist())) == 1


def metrics_do_not_depend_on_the_batch_size(ready: ReadyTask) -> None:
    """Check `predict` and `score` with batches of one, three and all examples."""

    def metrics(size: int) -> dict[str, float]:
        parts = ready.model, ready.task, ready.validation, ready.collate
        return evaluate(*parts, batch_size=size, device=torch.device("cpu"))

    expected = metrics(64)
    for size in (1, 3):
        found = metrics(size)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            both_nan = math.isnan(value) and math.isnan(expected[name])
            assert both_nan or math.isclose(value, expected[name], rel_tol=1e-3, abs_tol=1e-2), name


def a_saved_folder_is_opened_again(ready: ReadyTask) -> None:
    """Check that the saved model and tokenizer give the same loss, with no training data."""
    with tempfile.TemporaryDirectory() as folder:
        ready.model.save_pretrained(folder)
        ready.tokenizer.save_pretrained(folder)
        config, tokenizer = AutoConfig.from_pretrained(folder), load_tokenizer(folder)
        settings = ready.settings.model_copy(update={"train": None})
        task = build_task(settings).for_model(config).for_tokenizer(ready.tokenizer)
        model = task.build_model(folder, tokenizer, new_head=False).eval()
    batch = ready.batch()
    assert_close(model(**batch).loss, ready.model(**batch).loss)


def an_empty_model_has_the_same_weights(ready: ReadyTask) -> None:
    """Check `new_model` by the names and shapes of its parameters."""
    with torch.device("meta"):
        empty = ready.task.new_model(AutoConfig.from_pretrained(ready.path))
    shapes = {name: parameter.shape for name, parameter in ready.model.named_parameters()}
    assert {name: parameter.shape for name, parameter in empty.named_parameters()} == shapes


CHECKS: tuple[Callable[[ReadyTask], None], ...] = (
    lengths_are_those_of_the_longest_input,
    a_plan_counts_the_training_examples,
    a_batch_has_a_finite_loss,
    rows_are_as_many_and_as_wide_as_promised,
    labels_of_rows_give_the_models_loss,
    the_last_layers_make_the_rows,
    rows_do_not_depend_on_the_batch,
    equal_samples_have_equally_many_rows,
    metrics_do_not_depend_on_the_batch_size,
    a_saved_folder_is_opened_again,
    an_empty_model_has_the_same_weights,
)
"""All checks of `check_task`; each is called with a `ReadyTask`."""

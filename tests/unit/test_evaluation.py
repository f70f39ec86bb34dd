"""How evaluation is shared among ranks, and evaluation of a model folder by one process."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsprune.errors import UserError
from dsprune.model.pretrained import load_tokenizer
from dsprune.ranks.batch_order import evaluation_batches
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.build import build_task
from dsprune.testing.tiny import tiny_bert, tiny_sentiment
from dsprune.train.evaluation import evaluate, evaluate_model

CPU = torch.device("cpu")


@given(
    lengths=st.lists(st.integers(1, 128), min_size=1, max_size=60),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 8),
)
def test_each_example_counts_once_and_ranks_run_the_same_number_of_passes(lengths, batch_size, world_size):
    ranks = [evaluation_batches(lengths, batch_size, rank, world_size) for rank in range(world_size)]
    counted = [
        example for batches in ranks for batch in batches if batch.counts for example in batch.examples
    ]
    assert sorted(counted) == list(range(len(lengths)))
    assert len({len(batches) for batches in ranks}) == 1
    assert all(1 <= len(batch.examples) <= batch_size for batches in ranks for batch in batches)


def test_the_longest_examples_come_first():
    batches = evaluation_batches([3, 9, 5, 7, 1], 2, rank=0, world_size=1)
    assert [batch.examples for batch in batches] == [(1, 3), (2, 0), (4,)]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return str(tiny_bert(tmp_path_factory.mktemp("bert"), seed=3))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tiny_sentiment(tmp_path_factory.mktemp("sentiment"), 8, 37)
    return TaskSettings(
        name="text-classification", train=str(folder / "train.csv"), validation=str(folder / "validation.csv")
    )


def naive_accuracy(bert, settings):
    """One example at a time, without padding."""
    task, tokenizer = build_task(settings), load_tokenizer(bert)
    model = task.build_model(bert, tokenizer).eval()
    rows = task.load("validation")
    hits = [
        model(**tokenizer(row["text"], return_tensors="pt")).logits.argmax().item() == row["labels"]
        for row in rows
    ]
    return sum(hits) / len(hits)


@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_the_batch_size_does_not_change_the_metrics(bert, settings, batch_size):
    metrics = evaluate_model(bert, settings, device=CPU, batch_size=batch_size)
    assert list(metrics) == ["accuracy", "f1_macro"]
    assert metrics["accuracy"] == pytest.approx(naive_accuracy(bert, settings))
    assert 0 < metrics["accuracy"] < 1


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_its_mode(bert, settings, training):
    task, tokenizer = build_task(settings), load_tokenizer(bert)
    model = task.build_model(bert, tokenizer).train(training)
    data = task.prepare("validation", tokenizer)
    evaluate(model, task, data, task.collate(tokenizer), batch_size=8, device=CPU)
    assert all(module.training is training for module in model.modules())


def test_a_model_is_evaluated_with_its_own_labels_where_there_are_no_training_data(bert, settings):
    without_train = settings.model_copy(update={"train": None})
    assert evaluate_model(bert, without_train, device=CPU) == evaluate_model(bert, settings, device=CPU)


def test_a_model_of_other_labels_is_refused(tmp_path, settings):
    of_three = str(tiny_bert(tmp_path, num_labels=3, id2label=None, label2id=None))
    with pytest.raises(
        UserError, match=r"was trained for 3 labels and the task has 2 \(negative, positive\)"
    ):
        evaluate_model(of_three, settings, device=CPU)

"""Regression: scaled labels, correlations by their definitions, distillation, and refused data."""

import statistics

import numpy as np
import pytest
import torch
from datasets import Dataset

from dsprune.distillation import distillation_loss
from dsprune.errors import UserError
from dsprune.model.pretrained import load_tokenizer
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.build import build_task
from dsprune.testing.kinds import models
from dsprune.testing.kinds.kind import table
from dsprune.testing.kinds.models import amino_acids, word_piece
from dsprune.testing.tiny import tiny_bert

ROWS = [{"text": text, "label": label} for text, label in (("cat", 1.0), ("dog", 2.0), ("bird", 6.0))]
TOKENIZER = word_piece(["cat dog bird"])


def task_on(tmp_path, rows=ROWS, **settings):
    file = table(tmp_path / "t.csv", rows)
    return build_task(TaskSettings(name="regression", train=file, validation=file, max_length=16, **settings))


def test_numbers_are_scaled_for_training_and_not_for_scoring(tmp_path):
    task = task_on(tmp_path)
    mean, std = 3.0, statistics.pstdev([1.0, 2.0, 6.0])
    assert task.scale == pytest.approx((mean, std))
    assert task.prepare("train", TOKENIZER)["labels"][:] == pytest.approx(
        [(y - mean) / std for y in (1, 2, 6)]
    )
    assert task.prepare("validation", TOKENIZER)["labels"][:] == [1.0, 2.0, 6.0]


def test_the_models_config_holds_the_scale(tmp_path):
    task = task_on(tmp_path)
    path = str(models.save(tmp_path / "model", models.bert, TOKENIZER))
    model = task.build_model(path, load_tokenizer(path))
    assert (model.config.label_mean, model.config.label_std) == task.scale
    assert model.config.problem_type == "regression"
    assert model.classifier.out_features == 1


def test_the_scores_are_pearson_and_spearman_correlations():
    task = build_task(TaskSettings(name="regression"))
    predicted, labels = [0.1, 0.4, 0.3, 2.0, -1.0], [1.0, 2.0, 3.0, 4.0, 0.0]
    ranks = [np.argsort(np.argsort(values)) for values in (predicted, labels)]
    scores = task.score(predicted, Dataset.from_dict({"labels": labels}))
    assert scores == pytest.approx(
        {"pearson": np.corrcoef(predicted, labels)[0, 1], "spearman": np.corrcoef(*ranks)[0, 1]}
    )
    assert list(scores) == ["pearson", "spearman"]


def test_the_distillation_loss_at_a_high_temperature_is_half_the_squared_difference():
    task = build_task(TaskSettings(name="regression"))
    teacher, student = torch.tensor([[0.5], [-1.0]]), torch.tensor([[0.2], [1.0]])
    rows = [task.logit_rows({"logits": logits}, {})["logits"].logits for logits in (student, teacher)]
    expected = ((teacher - student) ** 2 / 2).mean()
    torch.testing.assert_close(distillation_loss(*rows, 50.0), expected, rtol=1e-2, atol=1e-4)


def test_a_pair_and_its_score(tmp_path):
    (tmp_path / "STS-B").mkdir()
    header = "index\tgenre\tsentence1\tsentence2\tscore\n"
    lines = [f'{i}\tnews\ta "b\tc\t{i % 6 / 1.2:.3f}\n' for i in range(5_749)]
    (tmp_path / "STS-B" / "train.tsv").write_text(header + "".join(lines))
    data = build_task(TaskSettings(name="stsb", folder=str(tmp_path))).load("train")
    assert data[1] == {"text": 'a "b', "text_pair": "c", "labels": 0.833}


def test_proteins_of_the_mixed_split(tmp_path):
    lines = ["MKT,40.5,train,", "GGS,50.0,train,True", "HWC,61.5,test,"]
    (tmp_path / "mixed_split.csv").write_text("sequence,target,set,validation\n" + "\n".join(lines) + "\n")
    task = build_task(TaskSettings(name="meltome", folder=str(tmp_path), max_length=16))
    assert task.load("train").to_dict() == {"text": ["MKT", "GGS"], "labels": [40.5, 50.0]}
    assert task.load("validation").to_dict() == {"text": ["HWC"], "labels": [61.5]}
    tokenizer = amino_acids(tmp_path)
    ids = task.prepare("validation", tokenizer)[0]["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<cls>", "H", "W", "C", "<eos>"]


def test_labels_that_are_not_numbers_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"t\.csv: row 2: 'warm' in column 'label' is not a number: fix it$"):
        task_on(tmp_path, [ROWS[0], {"text": "a", "label": "warm"}]).load("train")


def test_labels_that_do_not_differ_are_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"^task\.train: column 'label' does not hold two different numbers: give another"
    ):
        _ = task_on(tmp_path, [ROWS[0], ROWS[0]]).scale


def test_a_classifier_is_refused(tmp_path):
    path = str(tiny_bert(tmp_path / "bert"))
    with pytest.raises(
        UserError, match=r"^model '.*': was trained for 2 labels and the task is a number: choose"
    ):
        task_on(tmp_path).build_model(path, load_tokenizer(path))


def test_melting_temperatures_become_classes_between_thresholds(tmp_path):
    rows = "sequence,target,set,validation\n" + "".join(
        f"MK{'A' * i},{degrees},{split},\n"
        for split in ("train", "test")
        for i, degrees in enumerate((44.9, 45, 60, 75.5))
    )
    (tmp_path / "mixed_split.csv").write_text(rows)
    task = build_task(TaskSettings(name="meltome", folder=str(tmp_path), thresholds=(45.0, 75.0)))
    assert task.load("train")["labels"][:] == [0, 1, 1, 2]
    assert task.labels == ("below 45 C", "45 to 75 C", "from 75 C")
    assert task.score([0, 1, 1, 1], task.load("validation")) == {"accuracy": 0.75}
    same = build_task(TaskSettings(name="meltome", folder=str(tmp_path), thresholds=(99.0,)))
    with pytest.raises(
        UserError, match=r"^task\.thresholds: value \(99\.0,\): all rows .* are below 99 C: choose"
    ):
        same.load("train")


def test_thresholds_must_rise():
    with pytest.raises(ValueError, match="must rise from one to the next"):
        TaskSettings(name="meltome", thresholds=(75.0, 45.0))

"""`DistillationLoss` on collated batches, against an online teacher."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import (
    BertForSequenceClassification,
    BertTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

import dsprune
from dsprune.distillation import distillation_loss
from dsprune.distillation.capture.forward import origin_of_data
from dsprune.distillation.store import Output, ShardWriter, StoreSpec, fingerprints, plan_store
from dsprune.distillation.store.writer import begin_store, finish_store
from dsprune.model.fingerprints import teacher_fingerprint
from dsprune.recipe import load_recipe
from dsprune.schedule import build_timetable
from dsprune.tasks.build import build_task
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, tiny_tokenizer, write_recipe


class Student(BertForSequenceClassification):
    """A model that knows its step, like an engine."""

    applied_steps = 0


@dataclass(frozen=True)
class Stored:
    """A store and its inputs."""

    recipe: Path
    store: Path
    data: Dataset
    teacher: PreTrainedModel
    tokenizer: BertTokenizer

    def loss(self, **sections: Any) -> dsprune.DistillationLoss:
        return dsprune.DistillationLoss(self.store, self.recipe, self.tokenizer, **sections)

    def student(self) -> Student:
        student = Student.from_pretrained(self.recipe.parent / "student")
        recipe = load_recipe(str(self.recipe))
        student.timetable = build_timetable(recipe.pruning, recipe.learning_rate, recipe.budget, 10)
        return student

    def examples(self, rows: list[int]) -> list[dict[str, Any]]:
        return [{k: v for k, v in self.data[row].items() if k != "length"} for row in rows]

    def batch(self, rows: list[int], side: str = "right", width: int = 40) -> dict[str, torch.Tensor]:
        self.tokenizer.padding_side = side
        collate = DataCollatorWithPadding(self.tokenizer, padding="max_length", max_length=width)
        return dict(collate(self.examples(rows)))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    folder = tmp_path_factory.mktemp("stored")
    path = write_recipe(
        folder / "recipe.yaml",
        tiny_bert(folder / "student", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        tiny_sentiment(folder / "data", num_train=40),
        distillation={
            "teacher": str(tiny_bert(folder / "teacher", seed=1)),
            "hardness": {"first": 0.25, "final": 0.75},
        },
    )
    recipe, tokenizer = load_recipe(str(path)), tiny_tokenizer()
    task = build_task(recipe.task)
    data = task.prepare("train", tokenizer)
    teacher = BertForSequenceClassification.from_pretrained(folder / "teacher").eval()
    spec = StoreSpec(kind="full", dtype="fp32", outputs={"logits": Output(classes=2)})
    origin = origin_of_data(task, tokenizer) | {"teacher": teacher_fingerprint(str(folder / "teacher")) or ""}
    plan = plan_store(spec, origin, fingerprints(task.samples(data)))
    stored = Stored(path, folder / "store", data, teacher, tokenizer)
    begin_store(stored.store, plan)
    writer = ShardWriter(plan, 0)
    with torch.no_grad():
        logits = teacher(**stored.batch(writer.samples.tolist())).logits
    writer.put(range(len(logits)), {"logits": logits})
    writer.save(stored.store)
    finish_store(stored.store, plan, {})
    return stored


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("step", "hardness"), [(0, 0.25), (20, 0.5)])
def test_is_the_loss_with_the_teacher_beside_the_student(
    stored: Stored, side: str, step: int, hardness: float
) -> None:
    student = stored.student().eval()
    student.applied_steps = step
    batch = stored.batch([7, 3, 31], side)
    outputs = student(**batch)
    with torch.no_grad():
        logits = stored.teacher(**stored.batch([7, 3, 31])).logits
    expected = (1 - hardness) * outputs.loss + hardness * distillation_loss(outputs.logits, logits, 2.0)
    torch.testing.assert_close(stored.loss()(student, outputs, batch), expected, rtol=1e-4, atol=1e-5)


def test_the_trainer_divides_it_by_the_accumulation_steps(stored: Stored, tmp_path: Path) -> None:
    """Two micro-batches are one batch of twice their size; evaluation is without the store."""
    losses = []
    for micro_batch in (4, 8):
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=8 // micro_batch,
            max_steps=2,
            learning_rate=0.01,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            remove_unused_columns=False,
        )
        collate = DataCollatorWithPadding(stored.tokenizer)
        trainer = Trainer(stored.student(), arguments, collate, stored.examples(list(range(16))))
        stored.loss().use_in(trainer)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        unknown = [dict(one, input_ids=[*one["input_ids"][:-1], 9]) for one in stored.examples([0, 1])]
        assert trainer.evaluate(unknown)["eval_loss"] > 0
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_loss_of_the_task_is_that_of_the_trainer(stored: Stored, tmp_path: Path) -> None:
    arguments = TrainingArguments(str(tmp_path), label_smoothing_factor=0.5, report_to=[], use_cpu=True)
    student, batch = stored.student().train(), stored.batch([0, 1, 2])
    trainer = Trainer(student, arguments)
    smoothed = trainer.compute_loss(student, dict(batch))
    outputs = student(**batch)
    plain, distilled = stored.loss()(student, outputs, batch), stored.loss()
    distilled.use_in(trainer)
    assert not torch.isclose(smoothed, outputs.loss)
    expected = plain + 0.75 * (smoothed - outputs.loss)  # the hardness is 0.25 at step 0
    torch.testing.assert_close(trainer.compute_loss(student, batch), expected)


FIELDS: dict[str, Any] = {
    "a text": ["one", "two"],
    "a number": torch.tensor(1),
    "nothing": None,
    "positions": torch.zeros(1, 40),
    "idx": torch.arange(2),
}
OUTPUTS: dict[str, dict[str, Any]] = {
    "a loss for each example": {"loss": torch.ones(2)},
    "a number as loss": {"loss": 1.0},
    "a logit for each example": {"logits": torch.ones(2)},
}


def error_of(stored: Stored, what: str) -> None:
    student, batch = stored.student(), stored.batch([0, 1])
    if what == "an unknown example":
        batch["input_ids"][1, 1] += 1
        stored.loss()(student, student(**batch), batch)
    if what == "no labels":
        del batch["labels"]
        stored.loss()(student, student(**batch), batch)
    if what == "a plain module":
        plain = BertForSequenceClassification(stored.student().config)
        stored.loss()(plain, plain(**batch), batch)
    if what == "a loss function":
        trainer = Trainer(
            student, TrainingArguments(report_to=[], use_cpu=True), compute_loss_func=distillation_loss
        )
        stored.loss().use_in(trainer)
    if what == "fewer rows":
        outputs = student(**batch)
        outputs.logits = outputs.logits[:1]
        stored.loss()(student, outputs, batch)
    if what in FIELDS:
        stored.loss()(student, student(**batch), batch | {what: FIELDS[what]})
    if what in OUTPUTS:
        outputs = student(**batch)
        for name, value in OUTPUTS[what].items():
            setattr(outputs, name, value)
        stored.loss()(student, outputs, batch)
    if what == "a list of examples":
        stored.loss(data=stored.examples([0, 1]))
    if what == "raw data":
        stored.loss(data=Dataset.from_dict({"sentence": ["the film was good"]}))
    if what == "unknown data":
        stored.loss(
            data=Dataset.from_list([*stored.examples([0]), {**stored.examples([1])[0], "input_ids": [2]}])
        )
    if what == "another tokenizer":
        tokenizer = tiny_tokenizer()
        tokenizer.add_tokens(["new"])
        dsprune.DistillationLoss(stored.store, stored.recipe, tokenizer)
    if what == "no store":
        dsprune.DistillationLoss(None, stored.recipe, stored.tokenizer)  # type: ignore[arg-type]
    if what == "the name of a tokenizer":
        dsprune.DistillationLoss(stored.store, stored.recipe, "bert")  # type: ignore[arg-type]
    if what == "no such sections":
        dsprune.DistillationLoss(
            stored.store, load_recipe("glue-90", ["distillation=null"]), stored.tokenizer
        )
    if what == "another head":
        student = Student.from_pretrained(
            stored.recipe.parent / "student", num_labels=3, ignore_mismatched_sizes=True
        )
        student.timetable = stored.student().timetable
        stored.loss()(student, student(**batch), batch)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("an unknown example", r"store: 1 of 2 have no record, the first is number 2 of the batch, by its .*input_ids"),
        ("a text", r"^batch: a text: a list, not a tensor with a row for each example: leave it out"),
        ("a number", r"^batch: a number: shape \(\), not a tensor with a row for each example"),
        ("nothing", r"^batch: nothing: a NoneType, not a tensor"),
        ("positions", r"^batch: positions: shape \(1, 40\), not a tensor with a row for each example"),
        ("idx", r"store: 2 of 2 have no record, the first is number 1 of the batch, by its .*idx.*: encode as"),
        ("a loss for each example", r"^outputs: no scalar loss in a SequenceClassifierOutput"),
        ("a number as loss", r"^outputs: no scalar loss in a SequenceClassifierOutput"),
        ("a logit for each example", r"^outputs: logits: the shape \(2,\), not \[rows, classes\]"),
        ("a list of examples", r"^data: a list, not a datasets.Dataset"),
        ("raw data", r"^data: sentence: a column of texts"),
        ("no labels", r"^outputs: no scalar loss in a SequenceClassifierOutput, .*give the model the labels"),
        ("a plain module", r"^engine: a BertForSequenceClassification counts no steps: give the engine"),
        ("a loss function", r"^Trainer: compute_loss_func=distillation_loss: .*override compute_loss"),
        ("fewer rows", r"^distillation: logits: 1 rows of the student and 2 of the teacher"),
        ("unknown data", r"store: 1 of 2 have no record, the first is number 2 of the training examples, by its "),
        ("another tokenizer", r"store: the store does not match: tokenizer is "),
        ("no store", r"^store: a NoneType: give the folder"),
        ("the name of a tokenizer", r"^tokenizer: a str: give the tokenizer"),
        ("no such sections", r"^recipe 'glue-90': DistillationLoss needs the sections task and distillation: add them"),
        ("another head", r"^distillation: 2 classes of the teacher and 3 of the student"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(stored: Stored, what: str, says: str) -> None:
    with pytest.raises(dsprune.UserError, match=says):
        error_of(stored, what)

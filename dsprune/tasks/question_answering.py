"""Answers that are a part of a text: long texts are read in windows, and the best span of all windows counts."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor, nn
from torchmetrics.functional.text import squad
from transformers import (
    AutoModelForQuestionAnswering,
    DataCollatorWithPadding,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dsprune.errors import UserError
from dsprune.model.pretrained import Head
from dsprune.recipe.sections import Task as TaskSettings
from dsprune.tasks.benchmark import Benchmark, HubData, Part, Split
from dsprune.tasks.files import READERS, Reader, read_table
from dsprune.tasks.source import read_rows
from dsprune.tasks.spans import NUM_CANDIDATES, Candidates, best_span, find_tokens
from dsprune.tasks.task import Batch, Collate, LogitRows, Task
from dsprune.tasks.texts import padded

__all__ = ["QUESTION_ANSWERING", "QuestionAnswering"]

HEAD = Head(AutoModelForQuestionAnswering, ("ForQuestionAnswering",), "question-answering")


OUTPUTS = ("start_logits", "end_logits")


def _squad_json(path: Path, header: Sequence[str]) -> pa.Table:
    """The authors' nested format, a row a question, as on the hub."""
    data = json.loads(path.read_text(encoding="utf-8"))["data"]
    return pa.Table.from_pylist(
        [
            {
                "id": asked["id"],
                "question": asked["question"],
                "context": paragraph["context"],
                "answers": {
                    "text": [answer["text"] for answer in asked["answers"]],
                    "answer_start": [answer["answer_start"] for answer in asked["answers"]],
                },
            }
            for article in data
            for paragraph in article["paragraphs"]
            for asked in paragraph["qas"]
        ]
    )


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """A question and a text in, a part of the text out; every question has an answer there.

    An example of `prepare` is a window, so that a question may have several; a window without the answer is
    to point at its first token. The metrics are of questions.

    Attributes:
        settings: the recipe's task section.
        benchmark: what it is published as.
        readers: of its files.
    """

    cuts_rows: ClassVar[bool] = True

    settings: TaskSettings
    benchmark: Benchmark | None = None
    readers: Mapping[str, Reader] = field(default_factory=lambda: {**READERS, ".json": _squad_json})

    def load(self, split: Split) -> Dataset:
        """Questions, texts, and the answers with their places."""
        rows = read_rows(self.settings, split, self.benchmark, partial(read_table, readers=self.readers))
        contexts, answers = rows.texts("context"), rows.column("answers")
        for row, (context, answer) in enumerate(zip(contexts, answers, strict=True), start=1):
            if not answer["text"]:
                raise UserError(
                    f"{rows.origin}: question {row}: has no answer: use data whose questions all do"
                )
            if not all(0 <= start < len(context) for start in answer["answer_start"]):
                raise UserError(
                    f"{rows.origin}: question {row}: its answer begins outside the text: mend answer_start"
                )
        return Dataset.from_dict(
            {
                "id": [str(name) for name in rows.column("id")],
                "question": [question.strip() for question in rows.texts("question")],
                "context": contexts,
                "texts": [answer["text"] for answer in answers],
                "starts": [answer["answer_start"] for answer in answers],
            }
        )

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, rows: Mapping[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """Windows over each text, behind its question; `offsets` are the characters of the text's tokens."""
        if not tokenizer.is_fast:
            raise UserError(
                f"model.tokenizer: {type(tokenizer).__name__} does not tell where in the text a token is: "
                "question answering needs one that does, a fast tokenizer"
            )
        longest = max(map(len, tokenizer(rows["question"])["input_ids"]))
        if longest + self.settings.stride + 2 >= self.settings.max_length:
            raise UserError(
                f"task.max_length: {self.settings.max_length}: a question of {longest} tokens and a stride of "
                f"{self.settings.stride} leave no room for the text: raise it, or lower task.stride"
            )
        windows = tokenizer(
            rows["question"],
            rows["context"],
            truncation="only_second",
            max_length=self.settings.max_length,
            stride=self.settings.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        sources = windows.pop("overflow_to_sample_mapping")
        spans = windows.pop("offset_mapping")
        offsets = [
            # The question's tokens have characters of their own, which are none of the text's.
            [
                list(span) if part == 1 else [-1, -1]
                for span, part in zip(spans[i], windows.sequence_ids(i), strict=True)
            ]
            for i in range(len(sources))
        ]
        answers = [
            find_tokens(offsets[i], rows["starts"][source][0], rows["texts"][source][0])
            for i, source in enumerate(sources)
        ]
        return {
            **windows,
            "start_positions": [start for start, _ in answers],
            "end_positions": [end for _, end in answers],
            "offsets": offsets,
            "length": [len(ids) for ids in windows["input_ids"]],
            **{name: [rows[name][source] for source in sources] for name in ("id", "context", "texts")},
        }

    def collate(self, tokenizer: PreTrainedTokenizerBase, pad_to_multiple_of: int | None = None) -> Collate:
        """Pad to the longest window of the batch."""
        pad = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=pad_to_multiple_of)
        return padded(pad, without=("offsets", "id", "context", "texts"))

    def build_model(
        self, path: str, tokenizer: PreTrainedTokenizerBase, *, new_head: bool = True
    ) -> PreTrainedModel:
        """The model, with a start and an end logit a token."""
        return HEAD.load(path, tokenizer, self.settings.max_length, new_head=new_head)

    def new_model(self, config: PretrainedConfig) -> PreTrainedModel:
        """The model, with a start and an end logit a token."""
        return AutoModelForQuestionAnswering.from_config(config)

    def predict(self, model: nn.Module, batch: Batch) -> list[Candidates]:
        """The likeliest starts and ends of each window."""
        outputs = model(**self.inputs(batch))
        columns: list[list[Any]] = []
        for name in OUTPUTS:
            logits = outputs[name].float().masked_fill(batch["attention_mask"] == 0, -torch.inf)
            values, places = logits.topk(min(NUM_CANDIDATES, logits.shape[1]), dim=1)
            columns += [places.tolist(), values.tolist()]
        return [Candidates(*window) for window in zip(*columns, strict=True)]

    def classes(self, config: PretrainedConfig) -> dict[str, int]:
        """Two outputs, with a class for each token of a window."""
        del config
        return dict.fromkeys(OUTPUTS, self.settings.max_length)

    def logit_rows(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, LogitRows]:
        """One softmax over a window's tokens for each output; padding does not take part in it.

        Filled up to the longest window, so that a row is as wide in every batch.
        """
        padding = batch["attention_mask"] == 0
        width = self.settings.max_length - padding.shape[1]
        return {
            name: LogitRows(
                nn.functional.pad(
                    outputs[name].masked_fill(padding, -torch.inf), (0, width), value=-torch.inf
                )
            )
            for name in OUTPUTS
        }

    def samples(self, dataset: Dataset) -> dict[str, Sequence[Any]]:
        """The tokens of a window."""
        names = [
            name for name in dataset.column_names if name in ("input_ids", "token_type_ids", "attention_mask")
        ]
        return {name: dataset[name][:] for name in names}

    def row_labels(self, dataset: Dataset) -> dict[str, Sequence[Sequence[int]]]:
        """The places of the answer."""
        names = zip(OUTPUTS, ("start_positions", "end_positions"), strict=True)
        return {output: [[place] for place in dataset[name][:]] for output, name in names}

    def preprocessing(self) -> str:
        """The windows."""
        return f"{super().preprocessing()} in windows that share {self.settings.stride}"

    def score(self, predictions: Sequence[Candidates], dataset: Dataset) -> dict[str, float]:
        """F1 and exact match of the best span of all windows of a question, by SQuAD's rules; 1 is best."""
        best: dict[str, tuple[float, str]] = {}
        answers: dict[str, list[str]] = {}
        for candidates, window in zip(predictions, dataset, strict=True):
            logit, start, end = best_span(candidates, window["offsets"], self.settings.max_answer)
            if window["id"] not in best or logit > best[window["id"]][0]:
                best[window["id"]] = logit, window["context"][start:end]
            answers[window["id"]] = window["texts"]
        found = squad(
            [{"id": name, "prediction_text": text} for name, (_, text) in best.items()],
            [{"id": name, "answers": {"text": texts, "answer_start": []}} for name, texts in answers.items()],
        )
        return {"f1": found["f1"].item() / 100, "exact_match": found["exact_match"].item() / 100}


def _squad(settings: TaskSettings) -> Task:
    benchmark = Benchmark(
        title="SQuAD 1.1",
        source="https://rajpurkar.github.io/SQuAD-explorer/, train-v1.1.json and dev-v1.1.json",
        licence="CC BY-SA 4.0",
        parts={"train": Part("train-v1.1.json", 87_599), "validation": Part("dev-v1.1.json", 10_570)},
        hub=HubData("rajpurkar/squad"),
        note="The metrics are fractions; the official script prints per cents.",
    )
    return QuestionAnswering(settings, benchmark)


QUESTION_ANSWERING: Mapping[str, Callable[[TaskSettings], Task]] = {
    "question-answering": QuestionAnswering,
    "squad": _squad,
}

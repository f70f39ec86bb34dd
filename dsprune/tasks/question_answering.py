"""Extractive question answering: long texts are read in windows, and the best span of all windows is the answer."""

import json
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoModelForQuestionAnswering, PretrainedConfig, PreTrainedTokenizerBase

from dsprune.errors import UserError
from dsprune.model.pretrained import Head
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.data_files import READERS
from dsprune.tasks.examples import Batch
from dsprune.tasks.rows import BLANK, Column, Rows
from dsprune.tasks.source import Benchmark, HubData, Part, Split
from dsprune.tasks.spans import NUM_CANDIDATES, Candidates, best_span, find_tokens, in_context
from dsprune.tasks.task import LogitRows, Task
from dsprune.tasks.text_files import read_text

__all__ = ["QUESTION_ANSWERING", "QuestionAnswering", "read_squad"]

OUTPUTS = ("start_logits", "end_logits")

COLUMNS = (
    Column("id", "a name that no other question has"),
    Column("question", "a text"),
    Column("context", "the text that holds the answer"),
    Column(
        "answers", "a list `text` of answers, and a list `answer_start` of their positions in the context"
    ),
)


def read_squad(path: Path, header: Sequence[str]) -> pa.Table:
    """Read the authors' nested format into one row per question, as on the hub."""
    content = json.loads(read_text(path))
    if not isinstance(content, dict) or "data" not in content:
        raise ValueError("it is not in SQuAD's format: write rows one per line, as .jsonl")
    return pa.Table.from_pylist(
        [
            {
                "id": question["id"],
                "question": question["question"],
                "context": paragraph["context"],
                "answers": {
                    "text": [answer["text"] for answer in question["answers"]],
                    "answer_start": [answer["answer_start"] for answer in question["answers"]],
                },
            }
            for article in content["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    )


def _answer(rows: Rows, value: Any) -> dict[str, list[Any]]:
    """Return the texts and the positions of a question's answers.

    Raises:
        ValueError, LookupError, TypeError: they are not complete.
    """
    texts, starts = list(value["text"]), list(map(operator.index, value["answer_start"]))
    # The context tells whether an answer such as "None" is meant: `_check_answer`.
    blank = BLANK & rows.missing
    if not all(isinstance(text, str) and text.strip() not in blank for text in texts):
        raise ValueError("an answer is not a text")
    if len(texts) != len(starts):
        raise ValueError("there are not as many positions as texts")
    return {"text": texts, "answer_start": starts}


def _check_answer(rows: Rows, place: int, context: str, answer: Mapping[str, list[Any]]) -> None:
    if not answer["text"]:
        raise UserError(f"{rows.where(place)}: has no answer: use data in which every question has one")
    for text, start in zip(answer["text"], answer["answer_start"], strict=True):
        if not 0 <= start < len(context):
            raise UserError(f"{rows.where(place)}: its answer begins outside the context: fix answer_start")
        # Some published answers are off by a character.
        if rows.missing and not context.startswith(text, start):
            raise UserError(
                f"{rows.where(place)}: at answer_start {start} the context is "
                f"{context[start : start + len(text)]!r}, not {text[:80]!r}: fix one of them"
            )


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """Extractive question answering: input is a question with its context, output a span of the context.

    Every question must have an answer in its context.

    An encoded example is a window, so a question may have several. The label of a window without the answer is its
    first token. The metrics are over questions.
    """

    cuts_rows: ClassVar[bool] = True
    uses: ClassVar[tuple[str, ...]] = ("max_length", "stride", "max_answer")
    readers = READERS | {".json": read_squad}
    only_for_score = ("offsets", "id", "context", "texts")
    head = Head(AutoModelForQuestionAnswering, ("ForQuestionAnswering",), "question-answering")

    settings: TaskSettings
    benchmark: Benchmark | None = None

    def columns(self) -> tuple[Column, ...]:
        """Return the columns of SQuAD."""
        return COLUMNS

    def load(self, split: Split) -> Dataset:
        """Read the questions, the contexts, and the answers with their positions."""
        rows = self.rows(split)
        contexts, names = rows.texts("context"), [str(name) for name in rows.column("id")]
        answers = rows.converted("answers", partial(_answer, rows), "a list of texts and one of answer_start")
        for place, (context, answer) in enumerate(zip(contexts, answers, strict=True)):
            _check_answer(rows, place, context, answer)
        for name, count in Counter(names).items():
            if count > 1:
                raise UserError(f"{rows.origin}: {count} questions have the id {name!r}: give each its own")
        return Dataset.from_dict(
            {
                "id": names,
                "question": [question.strip() for question in rows.texts("question")],
                "context": contexts,
                "texts": [answer["text"] for answer in answers],
                "starts": [answer["answer_start"] for answer in answers],
            }
        )

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, rows: Mapping[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """Cut each context into windows, each after its question; `offsets` are the characters of the tokens."""
        self._check_room(tokenizer, rows["question"])
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
        offsets = [in_context(spans[i], windows.sequence_ids(i)) for i in range(len(sources))]
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

    def _check_room(self, tokenizer: PreTrainedTokenizerBase, questions: list[str]) -> None:
        """Check that the tokenizer can return positions, and that windows have room for some of the context."""
        if not tokenizer.is_fast:
            raise UserError(
                f"model.tokenizer: {type(tokenizer).__name__} does not return the positions of tokens in the "
                "text: question answering needs a fast tokenizer"
            )
        longest = max(map(len, tokenizer(questions)["input_ids"]))
        if longest + self.settings.stride + 2 >= self.settings.max_length:
            raise UserError(
                f"task.max_length: {self.settings.max_length}: a question of {longest} tokens and a stride of "
                f"{self.settings.stride} leave no room for the context: raise it, or lower task.stride"
            )

    def head_settings(self) -> dict[str, Any]:
        """Return two labels, the start and the end: the model may have been a classifier of more."""
        return {"num_labels": len(OUTPUTS)}

    def targets(self, data: Dataset) -> str:
        """Return the numbers of questions and windows, and of the questions whose answer is whole in no window."""
        names = data["id"][:]
        found = {name for name, start in zip(names, data["start_positions"][:], strict=True) if start}
        said = f"spans, in {len(names):,} windows of {len(set(names)):,} questions"
        if missing := len(set(names)) - len(found):
            said += (
                f"; {missing:,} of them have their answer whole in no window, and train the model to give none: raise "
                f"task.max_length or task.stride"
            )
        return said

    def predict(self, model: nn.Module, batch: Batch) -> list[Candidates]:
        """Return the most likely starts and ends of each window."""
        outputs = model(**self.inputs(batch))
        columns: list[list[Any]] = []
        for name in OUTPUTS:
            logits = outputs[name].float().masked_fill(batch["attention_mask"] == 0, -torch.inf)
            values, places = logits.topk(min(NUM_CANDIDATES, logits.shape[1]), dim=1)
            columns += [places.tolist(), values.tolist()]
        return [Candidates(*window) for window in zip(*columns, strict=True)]

    def classes(self, config: PretrainedConfig) -> dict[str, int]:
        """Return two outputs, start and end, with a class for each token of a window."""
        return dict.fromkeys(OUTPUTS, self.settings.max_length)

    def logit_rows(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, LogitRows]:
        """Return one row for each window and output, whose classes are the window's tokens.

        Padding has a logit of -inf. Rows are padded with -inf to `max_length`, so that they have the same width in
        every batch.
        """
        padding = batch["attention_mask"] == 0
        num_missing = self.settings.max_length - padding.shape[1]
        return {
            name: LogitRows(
                nn.functional.pad(
                    outputs[name].masked_fill(padding, -torch.inf), (0, num_missing), value=-torch.inf
                )
            )
            for name in OUTPUTS
        }

    def row_labels(self, dataset: Dataset) -> dict[str, Sequence[Sequence[int]]]:
        """Return the positions of the answer's first and last token."""
        names = zip(OUTPUTS, ("start_positions", "end_positions"), strict=True)
        return {output: [[place] for place in dataset[name][:]] for output, name in names}

    def preprocessing(self) -> str:
        """Add the stride of the windows."""
        return f"{super().preprocessing()} in windows that share {self.settings.stride}"

    def score(self, predictions: Sequence[Candidates], dataset: Dataset) -> dict[str, float]:
        """Return F1 and exact match of the best span of all windows of a question, by SQuAD's rules; 1 is best."""
        from torchmetrics.functional.text import squad

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
        note="The metrics are fractions; the official script prints percentages.",
    )
    return QuestionAnswering(settings, benchmark)


QUESTION_ANSWERING: Mapping[str, Callable[[TaskSettings], Task]] = {
    "question-answering": QuestionAnswering,
    "squad": _squad,
}

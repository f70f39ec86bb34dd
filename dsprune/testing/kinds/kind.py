"""One entry for each kind of task, with a few examples. The tests of all kinds cover each entry.

The examples have the published file formats of the benchmarks. A function with the name of a kind of task writes its
files into a folder and returns the settings of the task section for them.
"""

import csv
import gzip
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dsprune.testing.kinds import models

__all__ = []

SENTENCES = [
    "the cat sat on the mat",
    "a dog ran in the park",
    "the bird sang in a tree",
    "a fish swam under the bridge",
    "the child read a book at home",
]
GERMAN = [
    "die katze sass auf der matte",
    "ein hund lief im park",
    "der vogel sang im baum",
    "ein fisch schwamm unter der bruecke",
    "das kind las ein buch zu hause",
]
NUM_TRAIN, NUM_VALIDATION = 16, 7

Row = dict[str, Any]

ENGLISH = [
    *SENTENCES,
    "number0 number1 2 books and cats has how many in all more pairs half each ? . what does do",
]


def some(rows: Sequence[Any], num: int) -> list[Any]:
    """Return `num` rows, with repetitions if there are fewer."""
    return [rows[i % len(rows)] for i in range(num)]


def jsonl(path: Path, rows: Iterable[Row]) -> str:
    """Write one JSON line per row, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def table(path: Path, rows: Sequence[Row]) -> str:
    """Write a CSV file with a header and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def both(write: Callable[[Path, list[Any]], str], folder: Path, suffix: str, rows: Sequence[Any]) -> Row:
    """Write a training and a validation file of these rows, and return the settings for them."""
    return {
        "train": write(folder / f"train.{suffix}", some(rows, NUM_TRAIN)),
        "validation": write(folder / f"validation.{suffix}", some(rows[::-1], NUM_VALIDATION)),
    }


def classification(folder: Path) -> Row:
    """Return sentences in two classes."""
    rows = [{"text": text, "label": ("still", "moving")[i % 2]} for i, text in enumerate(SENTENCES)]
    return both(table, folder, "csv", rows)


def similarity(folder: Path) -> Row:
    """Return pairs of sentences with the number of words that they share."""
    rows = [
        {"sentence1": first, "sentence2": second, "label": len(set(first.split()) & set(second.split()))}
        for first in SENTENCES
        for second in SENTENCES[:3]
    ]
    return both(table, folder, "csv", rows)


PROTEINS = ["MKTVLA", "GGSERT", "IDPKQNFYM", "HWCLAG", "VSERTIDPK"]


def stability(folder: Path) -> Row:
    """Return proteins with a temperature, for two classes and the head on the mean of all tokens."""
    rows = [{"sequence": text, "label": 40.0 + 3.5 * i} for i, text in enumerate(PROTEINS)]
    return both(table, folder, "csv", rows) | {"thresholds": [45.0], "head": "mean"}


def commonsense_qa(folder: Path) -> Row:
    """Return questions with five choices."""
    rows = [
        {
            "answerKey": "ABCDE"[i],
            "id": str(i),
            "question": {
                "question_concept": "place",
                "choices": [
                    {"label": letter, "text": sentence.split()[-1]}
                    for letter, sentence in zip("ABCDE", SENTENCES, strict=True)
                ],
                "stem": f"where is the end of {sentence}",
            },
        }
        for i, sentence in enumerate(SENTENCES)
    ]
    return both(jsonl, folder, "jsonl", rows)


def blanks(folder: Path) -> Row:
    """Return sentences with a blank and two options, for the loss `margin`."""
    rows = [
        {
            "sentence": " ".join([*words[:-1], "_"]),
            "option1": words[-1] if i % 2 else words[0],
            "option2": words[0] if i % 2 else words[-1],
            "answer": "12"[(i + 1) % 2],
        }
        for i, words in enumerate(map(str.split, SENTENCES))
    ]
    return both(jsonl, folder, "jsonl", rows) | {"loss": "margin"}


def squad(folder: Path) -> Row:
    """Return questions about texts of several windows, whose answers are far apart."""
    context = " . ".join(SENTENCES * 2)
    asked = [
        {
            "id": f"q{i}",
            "question": f"what does the {sentence.split()[1]} do",
            "answers": [{"text": sentence.split()[2], "answer_start": context.index(sentence.split()[2])}],
        }
        for i, sentence in enumerate(SENTENCES)
    ]

    def write(path: Path, rows: Sequence[Row]) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        numbered = [{**row, "id": f"{row['id']}-{i}"} for i, row in enumerate(rows)]
        articles = [{"title": "animals", "paragraphs": [{"context": context, "qas": numbered}]}]
        path.write_text(json.dumps({"version": "1.1", "data": articles}))
        return str(path)

    return both(write, folder, "json", asked) | {"max_length": 32, "stride": 8, "max_answer": 4}


def word_problems(folder: Path) -> Row:
    """Return word problems with their equations."""
    rows = [
        {
            "Question": f"the child has number0 books and number1 cats . how many {what} ?",
            "Numbers": numbers,
            "Equation": equation,
            "Answer": answer,
            "group_nums": "[2, 3, 4, 5, 6, 7, 10]",
        }
        for what, numbers, equation, answer in [
            ("in all", "8.0 2.0", "+ number0 number1", "10"),
            ("more books", "8 3", "- number0 number1", "5"),
            ("pairs", "6.0 4.0", "/ * number0 number1 2.0", "12.0"),
            ("half the books", "9.0 4.0", "* number0 0.5", "4.5"),
            ("cats each", "3.0 12.0", "/ number1 number0", "4"),
        ]
    ]
    return both(table, folder, "csv", rows)


def word_problem_trees(folder: Path) -> Row:
    """Return word problems for the decoder `gts`."""
    return word_problems(folder) | {"decoder": "gts", "decoder_size": 16, "beams": 3}


def word_problem_graphs(folder: Path) -> Row:
    """Return word problems for the decoder `graph2tree`."""
    return word_problem_trees(folder) | {"decoder": "graph2tree"}


def parallel(folder: Path) -> Row:
    """Return English and German sentences, in both directions."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, num in (("train", NUM_TRAIN), ("validation", NUM_VALIDATION)):
        for language, sentences in (("en", SENTENCES), ("de", GERMAN)):
            text = "".join(f"{line}\n" for line in some(sentences, num)).encode()
            (folder / f"{split}.{language}.gz").write_bytes(gzip.compress(text))
    return {
        "train": str(folder / "train"),
        "validation": str(folder / "validation"),
        "pairs": ["en-de", "de-en"],
        "max_target": 8,
    }


def text(folder: Path) -> Row:
    """Return lines of plain text."""

    def write(path: Path, rows: Sequence[str]) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*rows] * 3) + "\n\n")
        return str(path)

    return both(write, folder, "txt", SENTENCES) | {"max_length": 16}


@dataclass(frozen=True)
class Kind:
    """A task on tiny data with a tiny model.

    Attributes:
        task: its name.
        write: writes its data into a folder, and returns the settings for them.
        tokenizer: makes a tokenizer; may write into the folder.
        model: makes a model for a tokenizer.
    """

    task: str
    write: Callable[[Path], dict[str, Any]]
    tokenizer: Callable[[Path], PreTrainedTokenizerBase]
    model: Callable[[PreTrainedTokenizerBase], PreTrainedModel]

    @property
    def name(self) -> str:
        """Task and model."""
        return f"{self.task}-{self.model.__name__}"


def _words(folder: Path) -> PreTrainedTokenizerBase:
    return models.word_piece(ENGLISH)


def _roberta(folder: Path) -> PreTrainedTokenizerBase:
    return models.byte_pairs(ENGLISH)


def _gpt2(folder: Path) -> PreTrainedTokenizerBase:
    return models.byte_pairs_without_padding(ENGLISH)


def _pieces(folder: Path) -> PreTrainedTokenizerBase:
    return models.unigrams([*SENTENCES, *GERMAN] * 4)


KINDS = [
    Kind("text-classification", classification, _gpt2, models.gpt2),
    Kind("stsb", similarity, _roberta, models.roberta),
    Kind("meltome", stability, models.amino_acids, models.esm),
    Kind("commonsense-qa", commonsense_qa, _roberta, models.roberta),
    Kind("winogrande", blanks, _roberta, models.roberta),
    Kind("squad", squad, _words, models.bert),
    Kind("svamp", word_problems, _roberta, models.roberta),
    Kind("equation-generation", word_problem_trees, _words, models.bert),
    Kind("equation-generation", word_problem_graphs, _roberta, models.roberta),
    Kind("translation", parallel, _pieces, models.mbart),
    Kind("masked-language-modeling", text, _words, models.bert),
    Kind("causal-language-modeling", text, _gpt2, models.gpt2),
]

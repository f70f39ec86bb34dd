"""CommonsenseQA, WinoGrande and RACE, encoded as in the authors' pipeline.

Source of the encodings: neuralmagic/sparseml, pull request 1287, commit c25e764394, multiple_choice.py, by the first
author of the paper, who states that it reproduces RoBERTa's results in fairseq.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from dsprune.errors import UserError
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.data_files import READERS, suffix_of
from dsprune.tasks.fill_in import Blank, FillIn
from dsprune.tasks.multiple_choice import MultipleChoice, Question, letter_or_number
from dsprune.tasks.rows import Rows
from dsprune.tasks.source import Benchmark, HubData, Part, Split
from dsprune.tasks.task import Task
from dsprune.tasks.text_files import lines_of, read_text

__all__ = ["COMMONSENSE", "commonsense_qa", "race", "winogrande", "winogrande_blanks"]


def commonsense_qa(rows: Rows) -> list[Question]:
    """Make a pair `Q: question`, `A: choice` for each choice, from the authors' files or the hub's flatter ones."""
    questions = rows.column("question")
    nested = bool(questions) and isinstance(questions[0], dict)
    if nested:
        stems = rows.converted("question", lambda one: rows.text(one["stem"]), "an object with a stem")
        choices = rows.converted("question", lambda one: _choices(rows, one["choices"]), "one with choices")
    else:
        stems = rows.texts("question")
        choices = rows.converted("choices", partial(_choices, rows), "an object with labels and texts")
    answers = rows.texts("answerKey")
    made = []
    for place, (stem, its_choices, answer) in enumerate(zip(stems, choices, answers, strict=True)):
        labels, texts = its_choices
        if answer not in labels:
            raise UserError(
                f"{rows.where(place)}: answerKey {answer!r} is not one of {', '.join(labels)}: "
                "use a split whose answers are published"
            )
        pairs = tuple((f"Q: {stem}", f"A: {text}") for text in texts)
        made.append(Question(pairs, labels.index(answer)))
    return made


def _choices(rows: Rows, choices: Any) -> tuple[list[str], list[str]]:
    """Return the labels and the texts of a question's choices, of either file format."""
    if isinstance(choices, dict):
        labels, texts = choices["label"], choices["text"]
    else:
        labels, texts = [one["label"] for one in choices], [one["text"] for one in choices]
    if len(labels) != len(texts):
        raise ValueError("there are not as many labels as texts")
    return list(map(rows.text, labels)), list(map(rows.text, texts))


def winogrande(rows: Rows) -> list[Question]:
    """Cut the sentence at the blank, which an option fills; the second text is the rest of the sentence."""
    blanks = winogrande_blanks(rows)
    return [
        Question(tuple((blank.left + option, blank.right) for option in blank.options), blank.answer)
        for blank in blanks
    ]


def winogrande_blanks(rows: Rows) -> list[Blank]:
    """Read the sentences, the options for their blanks, and the number of the correct option."""
    sentences, answers = rows.texts("sentence"), rows.texts("answer")
    options = [rows.texts(name) for name in ("option1", "option2")]
    made = []
    for row, (sentence, answer) in enumerate(zip(sentences, answers, strict=True)):
        left, blank, right = sentence.partition("_")
        if not blank or answer not in ("1", "2"):
            problem = f"answer {answer!r} is neither 1 nor 2" if blank else "the sentence has no blank, _"
            raise UserError(f"{rows.where(row)}: {problem}: use a split whose answers are published")
        made.append(Blank(left, right, (options[0][row], options[1][row]), int(answer) - 1))
    return made


def race(rows: Rows) -> list[Question]:
    """Pair the article with the question and an option, which fills the blank or is appended.

    Questions with equal options are left out. The level is in the names of the articles, as in `high1.txt`.
    """
    articles, questions = rows.texts("article"), rows.texts("question")
    names = rows.texts("example_id") if rows.has("example_id") else [""] * len(articles)
    answers = rows.converted("answer", letter_or_number, "a letter")
    made = []
    for article, question, options, answer, name in zip(
        articles, questions, rows.column("options"), answers, names, strict=True
    ):
        if len(set(options)) > 1:
            pairs = tuple((article, _filled(question, option)) for option in options)
            level = next((level for level in LEVELS if name.startswith(level)), "")
            made.append(Question(pairs, answer, level))
    return made


def _filled(question: str, option: str) -> str:
    return question.replace("_", option) if "_" in question else f"{question} {option}"


def _race_articles(path: Path, header: Sequence[str]) -> pa.Table:
    """Read one article with its questions, as in the authors' archive, or one per line of a jsonl file."""
    texts = lines_of(path) if suffix_of(path) == ".jsonl" else [read_text(path)]
    articles = (json.loads(text) for text in texts if text.strip())
    return pa.Table.from_pylist([row for article in articles for row in _race_rows(article)])


def _race_rows(article: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "questions" not in article:  # one row per question, as on the hub
        return [dict(article)]
    parts = zip(article["questions"], article["options"], article["answers"], strict=True)
    return [
        {
            "example_id": article.get("id", ""),
            "article": article["article"],
            "question": question,
            "options": options,
            "answer": answer,
        }
        for question, options, answer in parts
    ]


RACE_READERS = READERS | dict.fromkeys((".txt", ".json", ".jsonl"), _race_articles)

LEVELS = {"middle": (25_421, 1_436), "high": (62_445, 3_451)}
"""Number of questions for training and for validation by level of the school."""


def _race_level(level: str) -> Benchmark:
    num_train, num_validation = LEVELS[level]
    return Benchmark(
        title=f"RACE, {level} school",
        source="http://www.cs.cmu.edu/~glai1/data/race/, RACE.tar.gz",
        licence="for non-commercial research only",
        parts={
            "train": Part(f"train/{level}", num_train, is_folder=True),
            "validation": Part(f"dev/{level}", num_validation, is_folder=True),
        },
        hub=HubData("ehovy/race", level),
        note="Its test split is published: dsprune eval MODEL --task race validation=FOLDER/test",
    )


def _race(level: str, settings: TaskSettings) -> Task:
    return MultipleChoice(settings, race, 4, _race_level(level), RACE_READERS)


@dataclass(frozen=True)
class BothLevels(MultipleChoice):
    """RACE as one task on both levels, also scored by level."""

    @property
    def benchmarks(self) -> tuple[Benchmark, ...]:
        """The data of each level."""
        return tuple(map(_race_level, LEVELS))

    def questions(self, split: Split) -> tuple[Rows, list[Question]]:
        """Read the questions of both levels: from a folder with one subfolder per level, a file, or the hub."""
        file = self.settings.train if split == "train" else self.settings.validation
        has_folders = self.settings.folder is not None if file is None else Path(file).is_dir()
        if not has_folders:
            return super().questions(split)
        parts = []
        for level in LEVELS:
            own = self.settings.model_copy(update={split: f"{file}/{level}"}) if file else self.settings
            parts.append(MultipleChoice(own, race, 4, _race_level(level), RACE_READERS).questions(split))
        return parts[0][0], [question for _, questions in parts for question in questions]


def _both_levels(settings: TaskSettings) -> Task:
    whole = replace(_race_level("middle"), title="RACE", hub=HubData("ehovy/race", "all"))
    return BothLevels(settings, race, 4, whole, RACE_READERS)


def _commonsense_qa(settings: TaskSettings) -> Task:
    benchmark = Benchmark(
        title="CommonsenseQA 1.11, random split",
        source="https://www.tau-nlp.sites.tau.ac.il/commonsenseqa, train_ and dev_rand_split.jsonl",
        licence="MIT, according to its authors",
        parts={
            "train": Part("train_rand_split.jsonl", 9_741),
            "validation": Part("dev_rand_split.jsonl", 1_221),
        },
        hub=HubData("tau/commonsense_qa"),
        note="The answers of the test split are not published: results are on the validation split.",
    )
    return MultipleChoice(settings, commonsense_qa, 5, benchmark)


class Winogrande(MultipleChoice):
    """WinoGrande as a multiple choice."""

    uses = (*MultipleChoice.uses, "loss")


def _winogrande(settings: TaskSettings) -> Task:
    benchmark = Benchmark(
        title="WinoGrande 1.1, size XL",
        source="https://storage.googleapis.com/ai2-mosaic/public/winogrande/winogrande_1.1.zip",
        licence="see https://winogrande.allenai.org; no licence was found for the archive",
        parts={"train": Part("train_xl.jsonl", 40_398), "validation": Part("dev.jsonl", 1_267)},
        hub=HubData("allenai/winogrande", "winogrande_xl"),
        note="The answers of the test split are not published: results are on the validation split.",
    )
    if settings.loss == "margin":
        return FillIn(settings, num_choices=2, benchmark=benchmark, read_blanks=winogrande_blanks)
    return Winogrande(settings, winogrande, 2, benchmark)


COMMONSENSE: Mapping[str, Callable[[TaskSettings], Task]] = {
    "commonsense-qa": _commonsense_qa,
    "winogrande": _winogrande,
    "race": _both_levels,
    "race-middle": partial(_race, "middle"),
    "race-high": partial(_race, "high"),
}

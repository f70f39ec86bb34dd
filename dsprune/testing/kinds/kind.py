"""One entry for each kind of task. A new kind needs one entry, and the tests that go over all kinds cover it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dsprune.testing.kinds import data, models, tokenizers

ENGLISH = [
    *data.SENTENCES,
    "number0 number1 2 books and cats has how many in all more pairs half each ? . what does do",
]


@dataclass(frozen=True)
class Kind:
    """A task on tiny data with a tiny model.

    Attributes:
        task: its name.
        write: writes its data into a folder and returns the settings that name them.
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
    return tokenizers.word_piece(ENGLISH)


def _roberta(folder: Path) -> PreTrainedTokenizerBase:
    return tokenizers.byte_pairs(ENGLISH)


def _gpt2(folder: Path) -> PreTrainedTokenizerBase:
    return tokenizers.byte_pairs_without_padding(ENGLISH)


def _pieces(folder: Path) -> PreTrainedTokenizerBase:
    return tokenizers.unigrams([*data.SENTENCES, *data.GERMAN] * 4)


KINDS = [
    Kind("text-classification", data.classification, _gpt2, models.gpt2),
    Kind("stsb", data.similarity, _roberta, models.roberta),
    Kind("meltome", data.stability, tokenizers.amino_acids, models.esm),
    Kind("commonsense-qa", data.commonsense_qa, _roberta, models.roberta),
    Kind("winogrande", data.blanks, _roberta, models.roberta),
    Kind("squad", data.squad, _words, models.bert),
    Kind("svamp", data.word_problems, _roberta, models.roberta),
    Kind("translation", data.parallel, _pieces, models.mbart),
    Kind("masked-language-modeling", data.text, _words, models.bert),
    Kind("causal-language-modeling", data.text, _gpt2, models.gpt2),
]

"""One entry for each kind of task: whoever adds a kind adds one, and gets all tests that go over them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tests.kinds import data, models, tokenizers

ENGLISH = [
    *data.SENTENCES,
    "number0 number1 2 books and cats has how many in all more pairs half each ? . what does do",
]


@dataclass(frozen=True)
class Kind:
    """A task on tiny data with a tiny model.

    Attributes:
        task: its name.
        write: writes its data into a folder; gives the settings that name them.
        tokenizer: makes one, in a folder.
        model: makes one for a tokenizer.
    """

    task: str
    write: Callable[[Path], dict[str, Any]]
    tokenizer: Callable[[Path], PreTrainedTokenizerBase]
    model: Any

    @property
    def name(self) -> str:
        return f"{self.task}-{self.model.__name__}"


def words(folder: Path) -> PreTrainedTokenizerBase:
    return tokenizers.word_piece(ENGLISH)


def bpe(make: Any, folder: Path) -> PreTrainedTokenizerBase:
    return make(ENGLISH)


def pieces(folder: Path) -> PreTrainedTokenizerBase:
    return tokenizers.unigrams([*data.SENTENCES, *data.GERMAN] * 4)


roberta_bpe = partial(bpe, tokenizers.byte_pairs)
gpt2_bpe = partial(bpe, tokenizers.byte_pairs_without_padding)

KINDS = [
    Kind("text-classification", data.classification, gpt2_bpe, models.gpt2),
    Kind("stsb", data.similarity, roberta_bpe, models.roberta),
    Kind("meltome", data.stability, tokenizers.amino_acids, models.esm),
    Kind("commonsense-qa", data.commonsense_qa, roberta_bpe, models.roberta),
    Kind("squad", data.squad, words, models.bert),
    Kind("svamp", data.word_problems, roberta_bpe, models.roberta),
    Kind("translation", data.parallel, pieces, models.mbart),
    Kind("masked-language-modeling", data.text, words, models.bert),
    Kind("causal-language-modeling", data.text, gpt2_bpe, models.gpt2),
]

"""A trimmed model and tokenizer read their texts like the complete ones."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    PreTrainedTokenizerBase,
    RobertaConfig,
)

from dsprune.errors import UserError
from dsprune.model.trim import save_trimmed, trimmed_tokenizer
from dsprune.model.vocabulary import Vocabulary
from dsprune.testing.kinds import models

TEXTS = ["the cat sat on the mat", "a dog ran in the park", "the bird sang in a tree"]
USED = TEXTS[:2]

Make = Callable[[Sequence[str]], PreTrainedTokenizerBase]

MAKERS: list[Make] = [
    models.word_piece, models.byte_pairs, models.byte_pairs_without_padding, models.unigrams,
]  # fmt: skip


def used_by(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    tokens = [token for ids in tokenizer(USED)["input_ids"] for token in ids]
    return np.unique([*tokens, *tokenizer.all_special_ids])


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_texts_get_the_same_tokens(make: Make, tmp_path: Path) -> None:
    tokenizer = make(TEXTS)
    small, kept = trimmed_tokenizer(tokenizer, used_by(tokenizer))
    assert len(small) == len(kept) < len(tokenizer)
    small.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    whole, pieces = tokenizer(USED), again(USED)
    assert pieces.keys() == whole.keys()
    assert [kept[ids].tolist() for ids in pieces["input_ids"]] == whole["input_ids"]
    assert again.special_tokens_map == tokenizer.special_tokens_map
    pairs = again(USED[0], USED[1])["input_ids"]
    assert kept[pairs].tolist() == tokenizer(USED[0], USED[1])["input_ids"]
    assert again(TEXTS[2])["input_ids"]


@pytest.mark.parametrize("make", MAKERS[:2], ids=lambda make: make.__name__)
def test_a_trimmed_model_gives_the_same_logits(make: Make, tmp_path: Path) -> None:
    tokenizer = make(TEXTS)
    kind = BertConfig if make is models.word_piece else RobertaConfig
    config = kind(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    expected = model(**tokenizer(USED, padding=True, return_tensors="pt")).logits
    vocabulary = Vocabulary.used(model, tokenizer, [used_by(tokenizer)])
    vocabulary.shorten(model)
    save_trimmed(model, tokenizer, vocabulary, tmp_path)
    small, pieces = (
        AutoModelForSequenceClassification.from_pretrained(tmp_path),
        AutoTokenizer.from_pretrained(tmp_path),
    )
    rows = small.get_input_embeddings().num_embeddings
    assert small.config.vocab_size == rows == len(pieces) < len(tokenizer)
    assert small.config.pad_token_id == pieces.pad_token_id
    found = small.eval()(**pieces(USED, padding=True, return_tensors="pt")).logits
    assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_tokenizer_of_words_is_refused() -> None:
    tokenizer = models.word_piece(TEXTS)
    rules = type(tokenizer.backend_tokenizer).from_str(
        '{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":null,'
        '"post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"[UNK]":0},"unk_token":"[UNK]"}}'
    )
    tokenizer._tokenizer = rules
    with pytest.raises(UserError, match=r"^--trimmed: BertTokenizer cannot be trimmed: leave it out$"):
        trimmed_tokenizer(tokenizer, np.array([0]))


def test_positions_that_start_at_the_padding_token_are_kept_or_refused(tmp_path: Path) -> None:
    tokenizer = models.byte_pairs(TEXTS)
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=400, pad_token_id=30,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config)
    vocabulary = Vocabulary.used(model, tokenizer, [used_by(tokenizer)])
    vocabulary.shorten(model)
    with pytest.raises(
        UserError, match=r"^--trimmed: Roberta.* counts positions from its padding token: leave it out"
    ):
        save_trimmed(model, tokenizer, vocabulary, tmp_path)

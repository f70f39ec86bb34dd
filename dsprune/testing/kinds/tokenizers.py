"""Tokenizers of each family, trained on a few sentences."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    BertTokenizer,
    EsmTokenizer,
    GPT2Tokenizer,
    MBart50Tokenizer,
    PreTrainedTokenizerBase,
    RobertaTokenizer,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
AMINO_ACIDS = "LAGVSERTIDPKQNFYMHWCXBUZO"
LONGEST = 64


def word_piece(texts: Sequence[str]) -> PreTrainedTokenizerBase:
    """Return BERT's kind: a token for every word, and for every character, for words of other texts."""
    words = sorted({word for text in texts for word in text.lower().split()})
    letters = sorted({letter for word in words for letter in word})
    vocabulary = [*SPECIAL, *words, *letters, *(f"##{letter}" for letter in letters)]
    numbered = {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}
    return BertTokenizer(vocab=numbered, model_max_length=LONGEST)


def _bpe(texts: Sequence[str], special: Sequence[str]) -> tuple[dict[str, int], Any]:
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=300, show_progress=False, special_tokens=list(special))
    merges = [(first, second) for first, second in json.loads(trained.to_str())["model"]["merges"]]
    return trained.get_vocab(), merges


def byte_pairs(texts: Sequence[str]) -> PreTrainedTokenizerBase:
    """Return RoBERTa's kind."""
    vocabulary, merges = _bpe(texts, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return RobertaTokenizer(vocab=vocabulary, merges=merges, model_max_length=LONGEST)


def byte_pairs_without_padding(texts: Sequence[str]) -> PreTrainedTokenizerBase:
    """Return GPT-2's kind."""
    vocabulary, merges = _bpe(texts, ["<|endoftext|>"])
    return GPT2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=LONGEST)


def unigrams(texts: Sequence[str]) -> PreTrainedTokenizerBase:
    """Return mBART-50's kind: a sentencepiece model, and the codes of the languages."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=50,
        model_type="unigram",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    scored = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.get_piece_size())]
    return MBart50Tokenizer(vocab=scored, model_max_length=LONGEST)


def amino_acids(folder: Path) -> PreTrainedTokenizerBase:
    """Return ESM's kind: a token for every letter."""
    vocabulary = ["<cls>", "<pad>", "<eos>", "<unk>", *AMINO_ACIDS, ".", "-", "<null_1>", "<mask>"]
    file = folder / "vocab.txt"
    file.write_text("\n".join(vocabulary))
    return EsmTokenizer(str(file), model_max_length=LONGEST)

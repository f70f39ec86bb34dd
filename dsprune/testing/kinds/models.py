"""Models of two layers with random weights, and tokenizers of each family, trained on a few sentences."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    EsmConfig,
    EsmModel,
    EsmTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
)

__all__ = []

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
AMINO_ACIDS = "LAGVSERTIDPKQNFYMHWCXBUZO"
LONGEST = 64

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.2,  # so that outputs differ between inputs from the first step
}


def word_piece(texts: Sequence[str]) -> PreTrainedTokenizerBase:
    """Return a WordPiece tokenizer: a token for every word, and for every character of unknown words."""
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
    """Return RoBERTa's tokenizer."""
    vocabulary, merges = _bpe(texts, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return RobertaTokenizer(vocab=vocabulary, merges=merges, model_max_length=LONGEST)


def byte_pairs_without_padding(texts: Sequence[str]) -> PreTrainedTokenizerBase:
    """Return GPT-2's tokenizer."""
    vocabulary, merges = _bpe(texts, ["<|endoftext|>"])
    return GPT2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=LONGEST)


def unigrams(texts: Sequence[str]) -> PreTrainedTokenizerBase:
    """Return mBART-50's tokenizer: a sentencepiece model, and the codes of the languages."""
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
    """Return ESM's tokenizer: a token for every letter."""
    vocabulary = ["<cls>", "<pad>", "<eos>", "<unk>", *AMINO_ACIDS, ".", "-", "<null_1>", "<mask>"]
    file = folder / "vocab.txt"
    file.write_text("\n".join(vocabulary))
    return EsmTokenizer(str(file), model_max_length=LONGEST)


def bert(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Return BERT with its masked-language head."""
    return BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=LONGEST, **SIZES))


def roberta(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Return RoBERTa without a head."""
    return RobertaModel(
        RobertaConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=LONGEST + 2,
            pad_token_id=tokenizer.pad_token_id,
            **SIZES,
        )
    )


def esm(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Return ESM-2 without a head."""
    return EsmModel(
        EsmConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=LONGEST + 2,
            pad_token_id=tokenizer.pad_token_id,
            mask_token_id=tokenizer.mask_token_id,
            token_dropout=True,
            position_embedding_type="rotary",
            **SIZES,
        )
    )


def gpt2(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Return GPT-2 with its language-modeling head."""
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_positions=LONGEST, n_embd=16, n_layer=2, n_head=2)
    )


def mbart(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Return MBART."""
    return MBartForConditionalGeneration(
        MBartConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=LONGEST,
            d_model=16,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            dropout=0.0,
        )
    )


def save(
    folder: Path,
    make: Callable[[PreTrainedTokenizerBase], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    seed: int = 0,
) -> Path:
    """Write a model and its tokenizer as a Hugging Face folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

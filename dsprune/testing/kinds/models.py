"""Models of two layers with random weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    EsmConfig,
    EsmModel,
    GPT2Config,
    GPT2LMHeadModel,
    MBartConfig,
    MBartForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaModel,
)

from dsprune.testing.kinds.tokenizers import LONGEST

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.2,  # so that outputs differ between inputs from the first step on
}


def bert(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """BERT with its masked-language head."""
    return BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=LONGEST, **SIZES))


def roberta(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """RoBERTa without a head."""
    return RobertaModel(
        RobertaConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=LONGEST + 2,
            pad_token_id=tokenizer.pad_token_id,
            **SIZES,
        )
    )


def esm(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """ESM-2 without a head."""
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
    """GPT-2 with its language-modeling head."""
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_positions=LONGEST, n_embd=16, n_layer=2, n_head=2)
    )


def mbart(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """MBART."""
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

"""A model, a tokenizer and data that are small, made on the fly, and the same each time."""

import csv
import random
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

NOUNS = ["film", "story", "actor", "plot", "ending", "music", "scene", "script"]
ADVERBS = ["really", "rather", "truly", "quite", "very", "so"]
POSITIVE = ["good", "great", "lovely", "moving", "clever", "funny", "warm", "superb"]
NEGATIVE = ["bad", "awful", "dull", "boring", "stupid", "cold", "flat", "terrible"]
LABELS = ("negative", "positive")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [*SPECIAL, "the", "was", "and", ".", *NOUNS, *ADVERBS, *POSITIVE, *NEGATIVE]


def tiny_bert(folder: Path, *, seed: int = 0, **config: Any) -> Path:
    """Writes a BERT of two layers with a new head for `LABELS`, and its tokenizer: a Hugging Face folder."""
    settings = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "id2label": dict(enumerate(LABELS)),
        "label2id": {name: number for number, name in enumerate(LABELS)},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(BertConfig(**(settings | config)))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_tokenizer() -> BertTokenizer:
    """A tokenizer that knows the words of `tiny_sentiment`."""
    vocabulary = {word: number for number, word in enumerate(VOCABULARY)}
    return BertTokenizer(vocab=vocabulary, model_max_length=128)


def tiny_sentiment(folder: Path, num_train: int = 64, num_validation: int = 32, *, seed: int = 0) -> Path:
    """Writes `train.csv` and `validation.csv`, columns `text` and `label`: one clause or several of one mood.

    The mood is that of every clause, so a model that learns the adjectives reaches an accuracy of 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    for split, num_examples in (("train", num_train), ("validation", num_validation)):
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(_example(rng) for _ in range(num_examples))
    return folder


def _example(rng: random.Random) -> tuple[str, str]:
    label = rng.choice(LABELS)
    adjectives = POSITIVE if label == "positive" else NEGATIVE
    clauses = [
        f"the {rng.choice(NOUNS)} was {rng.choice(ADVERBS)} {rng.choice(adjectives)}"
        for _ in range(rng.randint(1, 4))
    ]
    return " and ".join(clauses) + ".", label

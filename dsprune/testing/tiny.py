"""A tiny BERT, its tokenizer, data to classify and a recipe, made quickly and deterministically."""

import csv
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

__all__ = ["LABELS", "NOUNS", "VOCABULARY", "tiny_bert", "tiny_sentiment", "tiny_tokenizer", "write_recipe"]

NOUNS = ["film", "story", "actor", "plot", "ending", "music", "scene", "script"]
ADVERBS = ["really", "rather", "truly", "quite", "very", "so"]
POSITIVE = ["good", "great", "lovely", "moving", "clever", "funny", "warm", "superb"]
NEGATIVE = ["bad", "awful", "dull", "boring", "stupid", "cold", "flat", "terrible"]
LABELS = ("negative", "positive")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [*SPECIAL, "the", "was", "and", ".", *NOUNS, *ADVERBS, *POSITIVE, *NEGATIVE]


def tiny_bert(folder: Path, *, seed: int = 0, **config: Any) -> Path:
    """Write a BERT of two layers with a new head for `LABELS`, and its tokenizer, as a Hugging Face folder."""
    settings: dict[str, Any] = {
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
    """Return a tokenizer that knows the words of `tiny_sentiment`."""
    vocabulary = {word: number for number, word in enumerate(VOCABULARY)}
    return BertTokenizer(vocab=vocabulary, model_max_length=128)


def tiny_sentiment(folder: Path, num_train: int = 64, num_validation: int = 32, *, seed: int = 0) -> Path:
    """Write `train.csv` and `validation.csv` with columns `text` and `label`.

    All clauses of a text have the sentiment of its label, so a model that learns the adjectives reaches an accuracy of
    1.
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


def write_recipe(path: Path, model: Path, data: Path, **sections: Any) -> Path:
    """Write a recipe that trains a tiny model in a second: 40 steps, mask updates at steps 10, 20 and 30.

    Args:
        path: file to write; runs are written to `runs` next to it.
        model: folder of `tiny_bert`.
        data: folder of `tiny_sentiment` with 320 training examples, for 10 steps an epoch.
        sections: sections of the recipe that differ.
    """
    recipe = {
        "model": {"path": str(model)},
        "task": {
            "name": "text-classification",
            "train": str(data / "train.csv"),
            "validation": str(data / "validation.csv"),
            "max_length": 32,
        },
        "budget": {"epochs": 4, "batch": 32},
        "pruning": {"sparsity": 0.9, "start": 10, "end": 30, "updates": 3},
        "learning_rate": {"peak": 5e-3, "warmup": 0, "rewind": True},
        "tracking": {"log_every": 4},
        "output": str(path.parent / "runs"),
    }
    path.write_text(yaml.safe_dump(recipe | sections))
    return path


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * width + 1)
        self.down = nn.Linear(2 * width + 1, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized sum of `x` and the block's output."""
        values: Tensor = self.norm(x + self.down(torch.relu(self.up(x))))
        return values


class TinyModel(nn.Module):
    """Embedding, three blocks, head. Prunable: 6 matrices, 3 * 2 * 7 * 15 = 630 weights."""

    def __init__(self, seed: int = 0, width: int = 7) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(11, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))
        self.head = nn.Linear(width, 3)

    def forward(self, tokens: Tensor, labels: Tensor) -> SimpleNamespace:
        """Return loss and logits."""
        x = self.embed(tokens).mean(dim=1)
        for block in self.blocks:
            x = block(x)
        logits = self.head(x)
        return SimpleNamespace(loss=nn.functional.cross_entropy(logits.float(), labels), logits=logits)


def batch(step: int, examples: int, rank: int, world_size: int) -> dict[str, Tensor]:
    """Return a rank's share of the global batch of a step, which is the same on any number of ranks."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, 11, (examples, 5), generator=generator)
    labels = tokens.sum(dim=1) % 3
    return {"tokens": tokens[rank::world_size], "labels": labels[rank::world_size]}

"""A tiny model and data for the examples: sentences of random words, labelled by their first word.

python examples/data.py OUTPUT    # a teacher, a student, train.csv and recipe.yaml, for examples/distilled_loop.py
"""

import csv
import sys
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

__all__ = ["Sentences", "tiny_model"]

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(95))]


class Sentences(Dataset[dict[str, torch.Tensor]]):
    """`size` sentences of 16 tokens; the label is whether the first token is even."""

    def __init__(self, size: int = 64) -> None:
        generator = torch.Generator().manual_seed(1)
        self.tokens = torch.randint(0, 100, (size, 16), generator=generator)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = self.tokens[index]
        return {"input_ids": tokens, "labels": tokens[0] % 2}


def tiny_model(seed: int = 0, dropout: float = 0.1) -> BertForSequenceClassification:
    """A BERT of two layers, the same each time."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = BertConfig(vocab_size=100, max_position_embeddings=64, **sizes, **rates)
    return BertForSequenceClassification(config)


def write_distilled(output: Path) -> None:
    """Write a teacher, a student, training data, and a recipe that names them."""
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}, model_max_length=64)
    for seed, name in enumerate(("student", "teacher")):
        tiny_model(seed).save_pretrained(output / name)
        tokenizer.save_pretrained(output / name)
    with (output / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for example in Sentences():
            writer.writerow(
                [" ".join(WORDS[token] for token in example["input_ids"]), int(example["labels"])]
            )
    (output / "recipe.yaml").write_text(
        f"model: {{path: {output}/student}}\n"
        f"task: {{name: text-classification, train: {output}/train.csv, max_length: 64}}\n"
        f"distillation: {{teacher: {output}/teacher, store: {output}/store, hardness: 0.5}}\n"
        + Path(__file__).with_name("recipe.yaml").read_text()
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write_distilled(folder)

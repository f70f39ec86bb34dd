"""A tiny model and data for the examples: sentences of random words, labelled by their first word."""

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification

__all__ = ["Sentences", "tiny_model"]


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


def tiny_model() -> BertForSequenceClassification:
    """A BERT of two layers, the same each time."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return BertForSequenceClassification(BertConfig(vocab_size=100, max_position_embeddings=64, **sizes))

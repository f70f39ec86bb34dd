"""A model small enough to check every weight of, with sizes that no number of ranks divides."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * width + 1)
        self.down = nn.Linear(2 * width + 1, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` and what the block adds, normalized."""
        return self.norm(x + self.down(torch.relu(self.up(x))))


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

"""A custom model and its data, for scripts without transformers."""

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset


class Blocks(nn.Module):
    """Three residual blocks on embedded tokens; 3 * 15 * 15 prunable weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(11, 15)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(15, 15), nn.ReLU()) for _ in range(3))
        self.head = nn.Linear(15, 3)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """The loss."""
        x = self.embed(tokens).mean(dim=1)
        for block in self.blocks:
            x = x + block(x)
        return nn.functional.cross_entropy(self.head(x), labels)


def examples() -> TensorDataset:
    """48 of them."""
    tokens = torch.randint(0, 11, (48, 5), generator=torch.Generator().manual_seed(0))
    return TensorDataset(tokens, tokens.sum(dim=1) % 3)

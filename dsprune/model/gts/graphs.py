"""The graphs over the tokens of a question, and the encoder of Graph2Tree that reads them."""

import torch
from torch import Tensor, nn

from dsprune.errors import UserError

__all__ = ["GraphEncoder", "quantity_graphs"]

REACH = 4
"""Distance in words from a number at which its cell ends, as published."""

NUM_GRAPHS, HEADS = 2, 4
"""Number of heads that read each graph, as published."""


def quantity_graphs(
    tokens: Tensor, word_index: Tensor, in_cell: Tensor, ranks: Tensor, is_word: Tensor
) -> Tensor:
    """Return the tokens that each token reads: `[questions, graphs, tokens, tokens]`, True from row to column.

    In the first graph, a number reads the numbers that are not greater. In the second, a number and the words of its
    quantity cell read each other, and equal tokens of all cells read each other. In both, each token reads itself.

    Args:
        tokens: `[questions, tokens]`; all numbers are the same token.
        word_index: `[questions, tokens]`, place of the token's word in the question.
        in_cell: `[questions, tokens]`, 1 for the first token of each word in a quantity cell.
        ranks: `[questions, tokens]`, rank of each number by its value, the same for equal ones; -1 for words.
        is_word: `[questions, tokens]`, False for padding.
    """
    is_number, in_cell = ranks >= 0, in_cell.bool()
    compared = _pairs(is_number, is_number) & (ranks[:, :, None] >= ranks[:, None])
    is_near = (word_index[:, :, None] - word_index[:, None]).abs() < REACH
    has = _pairs(is_number, in_cell & ~is_number) & is_near
    is_equal = _pairs(in_cell, in_cell) & (tokens[:, :, None] == tokens[:, None])
    itself = torch.diag_embed(is_word)
    return torch.stack([compared | itself, has | has.mT | is_equal | itself], dim=1)


def _pairs(rows: Tensor, columns: Tensor) -> Tensor:
    return rows[:, :, None] & columns[:, None]


class GraphEncoder(nn.Module):
    """Graph convolutions of two layers in several heads, and a feed-forward layer, each added to its input."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        if width % HEADS:
            raise UserError(
                f"task.decoder_size: {width}: graph2tree has {HEADS} heads: give a multiple of {HEADS}"
            )
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(HEADS))
        self.second = nn.ModuleList(nn.Linear(width, width // HEADS) for _ in range(HEADS))
        self.norm = nn.LayerNorm(width)
        self.intermediate = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Tensor, graphs: Tensor) -> Tensor:
        """Return the words after reading their neighbours.

        Args:
            words: `[questions, tokens, width]`.
            graphs: `[questions, graphs, tokens, tokens]`, as `quantity_graphs` returns them.
        """
        heads = []
        for head, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            graph = graphs[:, head * NUM_GRAPHS // HEADS].to(words.dtype)
            hidden = self.dropout(torch.relu(first(graph @ words)))
            heads.append(second(graph @ hidden))
        words = words + self.norm(torch.cat(heads, dim=-1))
        hidden = self.dropout(torch.relu(self.intermediate(words)))
        summed: Tensor = words + self.output(hidden)
        return summed

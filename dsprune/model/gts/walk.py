"""The position of the decoder in each tree of a batch: it visits the nodes in prefix order, and stores open operators.

An operator opens a subtree, and its left child is next. When the left subtree is finished, the right child is next.
When both are finished, the subtree is merged, and is finished too.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Walk"]


class Walk(NamedTuple):
    """The state of `trees` trees. The open operators of a tree are in the order of opening.

    Attributes:
        goal: `[trees, width]`, goal of the node to predict next.
        operators: `[trees, depth]`, class of each open operator.
        right_goals: `[trees, depth, width]`, goals of their right children.
        lefts: `[trees, depth, width]`, embeddings of their left subtrees.
        has_left: `[trees, depth]`, whether the left subtree is finished.
        num_open: `[trees]`, number of open operators.
        unfinished: `[trees]`, whether the tree has nodes to predict.
    """

    goal: Tensor
    operators: Tensor
    right_goals: Tensor
    lefts: Tensor
    has_left: Tensor
    num_open: Tensor
    unfinished: Tensor

    @classmethod
    def start(cls, goal: Tensor, depth: int) -> "Walk":
        """Start at the roots, with goals `[trees, width]`; at most `depth` operators are open at the same time."""
        trees, width = goal.shape
        operators = torch.zeros(trees, depth, dtype=torch.long, device=goal.device)
        embeddings = goal.new_zeros(trees, depth, width)
        num_open = torch.zeros(trees, dtype=torch.long, device=goal.device)
        unfinished = torch.ones_like(num_open, dtype=torch.bool)
        return cls(goal, operators, embeddings, embeddings, operators.bool(), num_open, unfinished)

    def select(self, trees: Tensor) -> "Walk":
        """Return the states of some trees, by number."""
        return Walk(*(part[trees] for part in self))

    @property
    def operator(self) -> Tensor:
        """`[trees]`, class of the innermost open operator; 0 without one."""
        return self._innermost(self.operators)

    @property
    def left(self) -> Tensor:
        """`[trees, width]`, its left subtree; zeros if it is not finished."""
        return torch.where(self.is_right[:, None], self._innermost(self.lefts), 0.0)

    @property
    def is_right(self) -> Tensor:
        """`[trees]`, whether the next node is a right child, with a known left sibling."""
        return self._innermost(self.has_left) & (self.num_open > 0)

    def open(self, where: Tensor, operators: Tensor, right_goals: Tensor) -> "Walk":
        """Add an open operator to the trees `where`."""
        place = self._place(self.num_open, where)
        return self._replace(
            operators=torch.where(place, operators[:, None], self.operators),
            right_goals=torch.where(place[..., None], right_goals[:, None], self.right_goals),
            has_left=self.has_left & ~place,
            num_open=self.num_open + where.long(),
        )

    def close(self, where: Tensor) -> "Walk":
        """Remove the innermost open operator of the trees `where`."""
        return self._replace(num_open=self.num_open - where.long())

    def finish(self, where: Tensor, subtrees: Tensor) -> "Walk":
        """Set the left subtree of the innermost open operator; a tree without one is finished.

        `subtrees`, `[trees, width]`, has the embeddings of the subtrees that were finished in the trees `where`.
        """
        has_parent = self.num_open > 0
        place = self._place(self.num_open - 1, where & has_parent)
        return self._replace(
            goal=torch.where(where[:, None], self._innermost(self.right_goals), self.goal),
            lefts=torch.where(place[..., None], subtrees[:, None], self.lefts),
            has_left=self.has_left | place,
            unfinished=self.unfinished & (has_parent | ~where),
        )

    def _innermost(self, values: Tensor) -> Tensor:
        trees = torch.arange(len(values), device=values.device)
        return values[trees, (self.num_open - 1).clamp(min=0)]

    def _place(self, index: Tensor, where: Tensor) -> Tensor:
        """Return a mask `[trees, depth]` with one entry per tree."""
        depths = torch.arange(self.operators.shape[1], device=index.device)
        return (depths == index[:, None]) & where[:, None]

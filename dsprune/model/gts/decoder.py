"""The tree decoder: predict a node from its goal, give goals to its children, merge finished subtrees."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dsprune.model.gts.walk import Walk

__all__ = ["ABSENT", "Question", "TreeDecoder"]

ABSENT = -1e4
"""Logit of a class that a question does not have: probability 0, and finite in every dtype."""


class Question(NamedTuple):
    """The decoder's input for a batch of questions.

    Attributes:
        words: `[questions, tokens, width]`.
        is_word: `[questions, tokens]`, False for padding.
        leaves: `[questions, slots + constants, width]`, embeddings of the possible leaves.
        allowed: `[questions, classes]`, the classes that a question has.
    """

    words: Tensor
    is_word: Tensor
    leaves: Tensor
    allowed: Tensor

    def repeat(self, times: int) -> "Question":
        """Return every question repeated `times` times, consecutively."""
        return Question(*(part.repeat_interleave(times, dim=0) for part in self))


class Gated(nn.Module):
    """A layer `tanh(value) * sigmoid(gate)`."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.value = nn.Linear(inputs, width)
        self.gate = nn.Linear(inputs, width)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return `[trees, width]` for inputs that are concatenated."""
        joined = torch.cat(inputs, dim=-1)
        return torch.tanh(self.value(joined)) * torch.sigmoid(self.gate(joined))


class Score(nn.Module):
    """Additive attention without its softmax."""

    def __init__(self, query: int, width: int, *, bias: bool) -> None:
        super().__init__()
        self.hidden = nn.Linear(query + width, width)
        self.score = nn.Linear(width, 1, bias=bias)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """Return `[trees, keys]` for one query per tree."""
        joined = torch.cat([query[:, None].expand(-1, keys.shape[1], -1), keys], dim=-1)
        scores: Tensor = self.score(torch.tanh(self.hidden(joined)))
        return scores.squeeze(-1)


class TreeDecoder(nn.Module):
    """Generates trees in prefix order. Classes are the operators, the slots of the question, and constants.

    Attributes:
        calls_vary: the number of calls of its parts depends on the batch, see `dsprune.zero.parameters.gather_whole`.
    """

    calls_vary = True

    def __init__(
        self, width: int, label_width: int, *, operators: int, constants: int, dropout: float
    ) -> None:
        super().__init__()
        self.num_operators = operators
        self.operators = nn.Embedding(operators, label_width)
        self.constants = nn.Embedding(constants, width)
        self.first = Gated(width, width)
        self.right = Gated(2 * width, width)
        self.attention = Score(width, width, bias=True)
        self.operator_scores = nn.Linear(2 * width, operators)
        self.leaf_scores = Score(2 * width, width, bias=False)
        self.left_goal = Gated(2 * width + label_width, width)
        self.right_goal = Gated(2 * width + label_width, width)
        self.merge = Gated(2 * width + label_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        words: Tensor,
        goal: Tensor,
        is_word: Tensor,
        slots: Tensor,
        has_slot: Tensor,
        labels: Tensor | None,
        beams: int,
        max_nodes: int,
    ) -> Tensor:
        """Return the logits of each node of known trees, or search trees.

        Args:
            words: `[questions, tokens, width]`.
            goal: `[questions, width]`, goals of the roots.
            is_word: `[questions, tokens]`, False for padding.
            slots: `[questions, slots, width]`, embeddings of the numbers.
            has_slot: `[questions, slots]`, the numbers that a question has.
            labels: `[questions, nodes]`, the classes of trees in prefix order, negative after their ends; None =
                search trees.
            beams: width of the search.
            max_nodes: largest tree that is searched.

        Returns:
            `[questions, nodes, classes]`, or `[questions, nodes]` with -1 after the end of a tree.
        """
        constants = self.constants.weight.expand(len(words), -1, -1)
        operators = has_slot.new_ones(len(words), self.num_operators)
        known = has_slot.new_ones(constants.shape[:2])
        # The last constant stands for all unknown ones, and is not an answer.
        known[:, -1] = labels is not None
        leaves, allowed = torch.cat([slots, constants], dim=1), torch.cat([operators, has_slot, known], dim=1)
        question = Question(words, is_word, leaves, allowed)
        if labels is None:
            return self.search(question, goal, beams, max_nodes)
        return self.follow(question, goal, labels)

    def follow(self, question: Question, goal: Tensor, labels: Tensor) -> Tensor:
        """Return the logits of each node, with the trees given by their labels."""
        walk, logits = Walk.start(goal, depth=labels.shape[1]), []
        for classes in labels.clamp(min=0).unbind(dim=1):
            node, context, scores = self.predict(walk, question)
            logits.append(scores)
            walk = self.grow(walk, classes, node, context, question.leaves)
        # Every parameter takes part in every batch, even if no equation has an operator: ranks must reduce the
        # gradients of the same parameters in the same order.
        return torch.stack(logits, dim=1) + 0.0 * (walk.goal + walk.left).mean()

    def search(self, question: Question, goal: Tensor, beams: int, max_nodes: int) -> Tensor:
        """Return the most probable trees of a beam search."""
        questions, classes = question.allowed.shape
        first = torch.arange(questions, device=goal.device)[:, None] * beams
        question, walk = question.repeat(beams), Walk.start(goal.repeat_interleave(beams, dim=0), max_nodes)
        found = torch.full((questions * beams, max_nodes), -1, device=goal.device)
        totals = torch.full((questions, beams), -torch.inf, device=goal.device)
        totals[:, 0] = 0.0  # all beams are equal at the start
        stays = torch.full((classes,), -torch.inf, device=goal.device)
        stays[0] = 0.0  # a finished tree has one continuation, of log probability 0
        for place in range(max_nodes):
            node, context, scores = self.predict(walk, question)
            gains = torch.where(walk.unfinished[:, None], scores.float().log_softmax(dim=-1), stays)
            sums = totals[..., None] + gains.view(questions, beams, classes)
            totals, best = sums.flatten(1).topk(beams)
            trees, chosen = (first + best // classes).flatten(), (best % classes).flatten()
            walk, found = walk.select(trees), found[trees]
            found[:, place] = torch.where(walk.unfinished, chosen, -1)
            walk = self.grow(walk, chosen, node[trees], context[trees], question.leaves)
            if not walk.unfinished.any():
                break
        return found[::beams]

    def predict(self, walk: Walk, question: Question) -> tuple[Tensor, Tensor, Tensor]:
        """Return embedding, context and logits of the next node of each tree."""
        goal, left = self.dropout(walk.goal), self.dropout(walk.left)
        node = torch.where(walk.is_right[:, None], self.right(left, goal), self.first(goal))
        weights = self.attention(self.dropout(node), question.words).masked_fill(~question.is_word, ABSENT)
        context = (weights.softmax(dim=-1)[:, None] @ question.words).squeeze(1)
        summary = self.dropout(torch.cat([node, context], dim=-1))
        leaves = self.leaf_scores(summary, self.dropout(question.leaves))
        logits = torch.cat([self.operator_scores(summary), leaves], dim=-1)
        return node, context, logits.masked_fill(~question.allowed, ABSENT)

    def grow(self, walk: Walk, classes: Tensor, node: Tensor, context: Tensor, leaves: Tensor) -> Walk:
        """Add a node to each unfinished tree: open a subtree for an operator, finish subtrees with a leaf."""
        is_operator = walk.unfinished & (classes < self.num_operators)
        is_leaf = walk.unfinished & ~is_operator
        operators = classes.clamp(max=self.num_operators - 1)
        parts = [self.dropout(part) for part in (node, context, self.operators(operators))]
        walk = walk.open(is_operator, operators, self.right_goal(*parts))
        walk = walk._replace(goal=torch.where(is_operator[:, None], self.left_goal(*parts), walk.goal))
        trees = torch.arange(len(leaves), device=leaves.device)
        subtree = leaves[trees, (classes - self.num_operators).clamp(min=0)]
        while True:
            merges = is_leaf & walk.is_right
            parts = [self.dropout(part) for part in (self.operators(walk.operator), walk.left, subtree)]
            subtree = torch.where(merges[:, None], self.merge(*parts), subtree)
            walk = walk.close(merges)
            if not merges.any():
                return walk.finish(is_leaf, subtree)

"""Word problems with a tree decoder: the tree of the equation is generated node by node, from the root."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dsprune.errors import UserError
from dsprune.model.gts import EquationSolver, GtsConfig, GtsForEquations
from dsprune.tasks.equations import COLUMNS, EquationGeneration
from dsprune.tasks.examples import Batch, Collate, Features, without_labels
from dsprune.tasks.prefix import OPERATORS, SLOT, symbols_of
from dsprune.tasks.rows import names_of
from dsprune.tasks.source import Split
from dsprune.tasks.token_logits import IGNORED
from dsprune.utils.text import short

__all__ = ["EquationTrees"]

LEAST_USES = 5
"""Smallest number of uses of a constant in the training equations for a class, as published."""

UNKNOWN = "?"
"""The class of all other constants, which is never an answer."""

NUMBER = re.compile(rf"{SLOT}(\d+)")

WORD = -1
"""The slot of a token that is not a number."""


@dataclass(frozen=True)
class EquationTrees(EquationGeneration):
    """GTS: input is a question, output the tree of an equation.

    Each number of the question is one token, the tokenizer's mask token; a leaf of the tree points to it. Constants
    have a class if the training equations use them five times or more.
    """

    uses = (*EquationGeneration.uses, "decoder_size")

    trained_config: ClassVar[type[GtsConfig]] = GtsConfig

    solver: ClassVar[type[EquationSolver]] = GtsForEquations

    padding: ClassVar[Mapping[str, int]] = {"attention_mask": 0, "labels": IGNORED, "slots": WORD}
    """Columns of a batch in addition to the tokens, with their padding values."""

    def symbols_in(self, equations: Sequence[Sequence[str]], num_slots: int) -> tuple[str, ...]:
        """Return the symbols of the classes: rare constants share the last one."""
        return (*symbols_of(equations, num_slots, least_uses=LEAST_USES), UNKNOWN)

    def load(self, split: Split) -> Dataset:
        """Read the rows; a question must contain the slots of its equation, to which leaves point."""
        data, rows = super().load(split), self.rows(split)
        column = names_of(COLUMNS, self.settings)[0]
        for place, (question, equation) in enumerate(
            zip(data["question"][:], data["equation"][:], strict=True)
        ):
            known = {match.group() for match in NUMBER.finditer(question)}
            if lost := [symbol for symbol in equation if symbol.startswith(SLOT) and symbol not in known]:
                raise UserError(
                    f"{rows.where(place)}: {lost[0]} is not in column {column!r}: task.decoder: "
                    f"{self.settings.decoder} points to it: write it there, or set task.decoder: transformer"
                )
        return data

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, rows: Mapping[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """Tokenize the question, find its numbers, and number the nodes of the tree in prefix order."""
        texts = self.masked(tokenizer, rows["question"])
        tokens = tokenizer(texts, truncation=True, max_length=self.settings.max_length)["input_ids"]
        slots = [
            self._slots(question, ids, tokenizer)
            for question, ids in zip(rows["question"], tokens, strict=True)
        ]
        classes = {symbol: place for place, symbol in enumerate(self.symbols)}
        return {
            "input_ids": tokens,
            "attention_mask": [[1] * len(ids) for ids in tokens],
            "slots": slots,
            "labels": [[classes.get(one, classes[UNKNOWN]) for one in tree] for tree in rows["equation"]],
            "length": list(map(len, tokens)),
            **{name: rows[name] for name in self.only_for_score},
        }

    def masked(self, tokenizer: PreTrainedTokenizerBase, questions: Sequence[str]) -> list[str]:
        """Return the questions with the tokenizer's mask token in place of each number."""
        mask = tokenizer.mask_token
        if mask is None:
            raise UserError(
                f"task.decoder: {self.settings.decoder}: the tokenizer has no mask token to stand for a number: choose "
                "a model that has one, or set task.decoder: transformer"
            )
        return [NUMBER.sub(mask, question) for question in questions]

    def _slots(self, question: str, tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Return the slot of each token; a repeated number has the slot of its first place."""
        numbers = [int(digits) for digits in NUMBER.findall(question)]
        found = [place for place, token in enumerate(tokens) if token == tokenizer.mask_token_id]
        if len(found) != len(numbers):
            raise UserError(
                f"task.max_length: {self.settings.max_length}: the tokens of {short(question)} hold {len(found)} of "
                f"{len(numbers)} numbers: raise it, and leave {tokenizer.mask_token} out of the question"
            )
        slots, known = [WORD] * len(tokens), {symbol for symbol in self.symbols if symbol.startswith(SLOT)}
        for place, number in zip(reversed(found), reversed(numbers), strict=True):
            slots = [WORD if slot == number else slot for slot in slots]
            slots[place] = number if f"{SLOT}{number}" in known else WORD
        return slots

    def collate(self, tokenizer: PreTrainedTokenizerBase, pad_to_multiple_of: int | None = None) -> Collate:
        """Pad on the right, for any tokenizer: the LSTM reads to the end, and trees start at the first token."""
        values = {"input_ids": int(tokenizer.pad_token_id or 0), **self.padding}
        return partial(_padded, values, pad_to_multiple_of or 1)

    def with_decoder(self, encoder: PreTrainedModel, symbols: Sequence[str]) -> PreTrainedModel:
        """Return the encoder with a new LSTM and tree decoder for these symbols."""
        num_slots = sum(symbol.startswith(SLOT) for symbol in symbols)
        config = self.trained_config(
            encoder=encoder.config.to_dict(),
            decoder_size=self.settings.decoder_size or self.trained_config.decoder_size,
            num_operators=len(OPERATORS),
            num_slots=num_slots,
            num_constants=len(symbols) - len(OPERATORS) - num_slots,
            equation_symbols=list(symbols),
        )
        return self.solver(config, encoder)

    def predict(self, model: nn.Module, batch: Batch) -> list[list[int]]:
        """Search the trees: the classes of their nodes, -1 after the end. Collective under ZeRO-3."""
        # A DeepSpeed engine has the model inside.
        solver: Any = model if isinstance(model, PreTrainedModel) else model.module
        found = solver(
            **without_labels(batch), num_beams=self.settings.beams, max_nodes=self.max_new_tokens()
        )
        trees: list[list[int]] = found.trees.tolist()
        return trees

    def symbols_of_output(self, tokens: Sequence[int]) -> list[str]:
        """Return the symbols of a tree."""
        return [self.symbols[token] for token in tokens if token >= 0]

    def samples(self, dataset: Dataset) -> dict[str, Sequence[Any]]:
        """Return the model's inputs, with the labels, which determine the trees."""
        return {name: dataset[name][:] for name in ("input_ids", *self.padding)}


def _padded(fill: Mapping[str, int], multiple: int, features: Sequence[Features]) -> Batch:
    """Return a batch of examples, padded to the longest question and the largest tree."""
    batch = {
        name: pad_sequence(
            [torch.tensor(one[name]) for one in features], batch_first=True, padding_value=value
        )
        for name, value in fill.items()
    }
    width = -(-batch["input_ids"].shape[1] // multiple) * multiple
    return {
        name: part if name == "labels" else _widened(part, width, fill[name]) for name, part in batch.items()
    }


def _widened(part: Tensor, width: int, value: int) -> Tensor:
    return nn.functional.pad(part, (0, width - part.shape[1]), value=value)

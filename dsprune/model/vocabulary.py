"""The used vocabulary: train only the embedding rows of tokens that occur in the data.

The other rows have no gradient, so leaving them out does not change the loss. The embedding itself maps a token to its
row, so models, tasks and teacher stores keep the tokenizer's numbers. A saved model has all rows again.

Source of the idea: Williams and Aletras, Vocabulary-level Memory Efficiency for Language Model Fine-tuning (RepL4NLP
2025, arXiv 2309.08708).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dsprune.errors import UserError
from dsprune.utils.files import replace_text
from dsprune.utils.text import first_line

__all__ = ["Vocabulary", "embedding_of", "num_missing", "with_all_rows"]

FIELD = "model.vocabulary: value used"

UNUSED = "unused_rows"
"""Attribute of a shortened embedding: its other rows, on the CPU."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens whose rows are trained.

    Attributes:
        size: number of rows of the complete embedding.
        kept: `[kept]`, the tokens, ascending.
    """

    size: int
    kept: np.ndarray

    @classmethod
    def used(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: Iterable[np.ndarray]
    ) -> "Vocabulary":
        """Return the tokens that occur in the data, and the special ones; the model may be meta.

        Raises:
            UserError: the model needs its complete vocabulary.
        """
        _, embedding = embedding_of(model)
        special = [*tokenizer.all_special_ids, *_special(model), embedding.padding_idx]
        found = np.unique(
            np.concatenate([np.array([token for token in special if token is not None]), *tokens])
        )
        return cls(embedding.num_embeddings, found[found < embedding.num_embeddings].astype(np.int64))

    def shorten(self, model: PreTrainedModel, *, keep_others: bool = True) -> None:
        """Remove all rows except the kept ones from the model's complete embedding, in place.

        If `keep_others`, the other rows stay in main memory, for `with_all_rows`.

        Raises:
            UserError: the model needs its complete vocabulary, or has another one.
        """
        _, embedding = embedding_of(model)
        if embedding.num_embeddings != self.size:
            raise UserError(
                f"{FIELD}: the embedding has {embedding.num_embeddings:,} rows and the run's has {self.size:,}: "
                "give the model that the run began with"
            )
        weight, kept = embedding.weight.detach(), torch.from_numpy(self.kept)
        # Out of range for a token that was left out, which is never read.
        rows = torch.full((self.size,), self.size, device="cpu")
        rows[kept] = torch.arange(len(kept), device="cpu")
        if keep_others and not weight.is_meta:
            setattr(embedding, UNUSED, weight[rows == self.size])
        embedding.weight = nn.Parameter(weight[kept].clone(), requires_grad=embedding.weight.requires_grad)
        embedding.num_embeddings = len(kept)
        if embedding.padding_idx is not None:
            embedding.padding_idx = int(rows[embedding.padding_idx])
        embedding.register_buffer("rows", rows, persistent=False)
        embedding.register_forward_pre_hook(_to_rows)

    def write(self, path: Path) -> None:
        """Write the vocabulary to a JSON file."""
        replace_text(path, json.dumps({"size": self.size, "kept": self.kept.tolist()}) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Vocabulary":
        """Read the file of `write`.

        Raises:
            UserError: it is missing or damaged.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            read = cls(int(values["size"]), np.array(values["kept"], dtype=np.int64))
            rises = len(read.kept) > 0 and (np.diff(read.kept) > 0).all()
            if not rises or not 0 <= read.kept[0] <= read.kept[-1] < read.size:
                raise ValueError("its tokens are not ascending numbers below its size")
        except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
            raise UserError(
                f"{path}: not a vocabulary of a run: {first_line(error)}: restore the file"
            ) from error
        return read

    def check_same(self, path: Path) -> None:
        """Check that the checkpoints next to a file of `write` were made with this vocabulary.

        Raises:
            UserError: they were not.
        """
        theirs = Vocabulary.read(path)
        if theirs.size != self.size or not np.array_equal(theirs.kept, self.kept):
            raise UserError(
                f"{path}: {len(theirs.kept):,} of {theirs.size:,} tokens, not the {len(self.kept):,} of {self.size:,} "
                "that these data use: resume with the same data"
            )


def embedding_of(model: PreTrainedModel) -> tuple[str, nn.Embedding]:
    """Return the name and the module of a model's input embedding.

    Raises:
        UserError: it cannot be shortened, because outputs or other modules use its rows.
    """
    embedding, name = model.get_input_embeddings(), type(model).__name__
    if not isinstance(embedding, nn.Embedding):
        raise UserError(f"{FIELD}: {name} has no embedding of tokens: set all")
    head = model.get_output_embeddings()
    users = [
        other
        for other, module in model.named_modules()
        if getattr(module, "weight", None) is embedding.weight
    ]
    if len(users) > 1 or (head is not None and head.weight.shape[0] == embedding.num_embeddings):
        raise UserError(
            f"{FIELD}: {name} needs all rows for its outputs or its decoder ({users[-1]}): set all"
        )
    return users[0], embedding


def num_missing(model: nn.Module) -> int:
    """Return the number of weights in the rows that were left out."""
    return sum(
        (len(cast(Tensor, module.rows)) - module.num_embeddings) * module.embedding_dim
        for module in model.modules()
        if isinstance(module, nn.Embedding) and hasattr(module, "rows")
    )


def with_all_rows(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a model by name, with its complete embedding: rows that were left out are unchanged.

    The model may have been shortened with `keep_others`.
    """
    whole = dict(state)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and hasattr(module, UNUSED):
            key, rows = f"{name}.weight", cast(Tensor, module.rows).cpu()
            trained, others = state[key], getattr(module, UNUSED)
            whole[key] = trained.new_empty(len(rows), module.embedding_dim)
            whole[key][rows < len(trained)] = trained
            whole[key][rows >= len(trained)] = others.to(trained) + 0.0  # -0.0 becomes +0.0
    return whole


def _special(model: PreTrainedModel) -> list[int]:
    """Return the tokens that the configurations of a model and its parts name."""
    configs = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    values = [value for config in configs for key, value in vars(config).items() if key.endswith("_token_id")]
    return [value for value in values if isinstance(value, int) and value >= 0]


def _to_rows(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    tokens, *others = arguments
    return (cast(Tensor, module.rows)[tokens], *others)

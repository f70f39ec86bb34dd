"""Sparse models: pruned by magnitude, with masks like those of a run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from dsprune.masks.bits import pack
from dsprune.masks.mask_files import write_masks
from dsprune.masks.mask_set import MaskSet
from dsprune.model.prunable import choose_weights
from dsprune.model.shard import Shard
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Pruning
from dsprune.schedule import MaskUpdate, Timetable
from dsprune.testing.tiny import tiny_tokenizer

QUERY = "bert.encoder.layer.0.attention.self.query.weight"

TIMETABLE = Timetable(10, 10, 0, (MaskUpdate(0, 0.8),), True, 0.1, 0.1, 0.0)


def save_sparse(
    folder: Path,
    model: PreTrainedModel,
    sparsities: Mapping[str, float] | None = None,
    include: Sequence[str] = (),
    max_shard_size: str = "1GB",
    pattern: str = "unstructured",
    scope: str = "uniform",
) -> Path:
    """Prune each tensor to 0.8, or to the sparsity of a glob, and write the model folder with its masks.

    The weights are pruned individually, for any pattern or scope in the manifest.
    """
    tensors = choose_weights(model, include, sparsities=sparsities).tensors
    masks = MaskSet([Shard(tensor, 0, tensor.numel) for tensor in tensors])
    bits, parameters = [], dict(model.named_parameters())
    for tensor in tensors:
        weights = parameters[tensor.name].data.view(-1)
        target = 0.8 if tensor.sparsity is None else tensor.sparsity
        pruned = weights.abs().argsort()[: round(target * tensor.numel)]
        weights[pruned] = 0.0
        bits.append(pack(torch.ones(tensor.numel, dtype=torch.bool).index_fill_(0, pruned, False)))
    masks.replace(bits)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    pruning = Pruning(sparsity=0.8, scope=scope, pattern=pattern)
    write_masks(folder, masks, Comm(), step=10, timetable=TIMETABLE, pruning=pruning)
    return folder


def sparse_bert(folder: Path) -> Path:
    """A sparse BERT of two layers as a model folder, with its tokenizer."""
    tiny_tokenizer().save_pretrained(folder)
    return save_sparse(folder, bert())


def bert(**config: Any) -> PreTrainedModel:
    """A BERT with tensors of 36 and 42 weights, which are not multiples of 8."""
    sizes = {"vocab_size": 43, "hidden_size": 6, "num_hidden_layers": 2, "intermediate_size": 7}
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(num_attention_heads=2, **(sizes | config)))


def change_weights(folder: Path, change: Callable[[Tensor], Tensor]) -> None:
    """Change every tensor of a model folder, but not its masks."""
    weights = load_file(folder / "model.safetensors")
    changed = {name: change(tensor) + 0.0 for name, tensor in weights.items()}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Check that names, dtypes, shapes and bits are equal."""
    return ours.keys() == theirs.keys() and all(
        (a.dtype, a.shape) == (b.dtype, b.shape)
        and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
        for a, b in ((ours[name], theirs[name]) for name in ours)
    )

"""Whole tensors out of a DeepSpeed checkpoint on disk, without an engine and without the ranks that wrote it.

Files are memory-mapped, one tensor is put together at a time, and nothing but tensors, plain values and three
small DeepSpeed classes is unpickled.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from dsprune.errors import UserError
from dsprune.zero.layout import PARAMETER_ORDER

__all__ = [
    "COUNTERS",
    "CheckpointFiles",
    "is_checkpoint",
    "main_file",
    "read_main_file",
    "writer_of",
]

MODEL_STATES = "*_model_states.pt"

COUNTERS = ("global_steps", "skipped_steps", "global_samples", "lr_scheduler")


@dataclass(frozen=True)
class _Slice:
    """Where a part of a flattened parameter lies in a flat buffer, and the optimizer's state beside it."""

    flat: Tensor
    states: Mapping[str, Any]
    offset: int
    numel: int

    def views(self) -> Iterator[tuple[str, Tensor]]:
        yield "master weights", self._cut(self.flat)
        for name, state in self.states.items():
            if isinstance(state, Tensor) and state.dim() > 0:
                yield name, self._cut(state)

    def _cut(self, flat: Tensor) -> Tensor:
        return flat.detach().view(-1)[self.offset : self.offset + self.numel]


@dataclass
class CheckpointFiles:
    """The folder of one tag, at any ZeRO stage.

    Args:
        folder: the tag's folder.

    Attributes:
        counters: what the engine counts, and its scheduler's state.

    Raises:
        UserError: it is not a DeepSpeed checkpoint, or one of its files is damaged.
    """

    folder: Path
    counters: dict[str, Any] = field(default_factory=dict, init=False)
    _slices: dict[str, list[_Slice]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        model = read_main_file(self.folder)
        self.counters = {name: model[name] for name in COUNTERS}
        ranks = [_load(path)["optimizer_state_dict"] for path in _by_rank(self.folder)]
        if not ranks:
            self._index_replicas(model)
        elif int(ranks[0]["zero_stage"]) == 3:
            self._index_stage3(ranks, model["param_shapes"])
        else:
            self._index_stage12(ranks)

    @property
    def names(self) -> list[str]:
        """The trained parameters."""
        return list(self._slices)

    def views(self, name: str) -> dict[str, Tensor]:
        """Master weights and moments of a parameter, whole and flattened, by what they are.

        Raises:
            UserError: the checkpoint has no such parameter.
        """
        return self.cut(name, 0, self.numel(name))

    def numel(self, name: str) -> int:
        """Number of weights of a parameter."""
        return sum(piece.numel for piece in self._pieces(name))

    def cut(self, name: str, start: int, numel: int) -> dict[str, Tensor]:
        """What `views` gives, of `numel` entries of the flattened parameter from `start` on."""
        parts: dict[str, list[Tensor]] = {}
        place = 0
        for piece in self._pieces(name):
            low, high = max(start - place, 0), min(start + numel - place, piece.numel)
            place += piece.numel
            if low < high:
                for what, view in piece.views():
                    parts.setdefault(what, []).append(view[low:high])
        return {what: torch.cat(views) for what, views in parts.items()}

    def scalars(self, name: str) -> dict[str, float]:
        """What the optimizer's state of a parameter has beside the moments, such as `step`."""
        return {
            key: float(value)
            for piece in self._pieces(name)
            for key, value in piece.states.items()
            if not isinstance(value, Tensor) or value.dim() == 0
        }

    def _pieces(self, name: str) -> list[_Slice]:
        if name not in self._slices:
            raise UserError(f"{self.folder}: no parameter {name}: the masks are of another checkpoint")
        return self._slices[name]

    def _add(self, name: str, piece: _Slice) -> None:
        self._slices.setdefault(name, []).append(piece)

    def _index_replicas(self, model: Mapping[str, Any]) -> None:
        """Stage 0: one file. 16-bit runs keep fp32 masters too, one a parameter or one a group."""
        optimizer, weights, names = model["optimizer"], model["module"], model.get(PARAMETER_ORDER)
        if names is None:
            raise UserError(
                f"{self.folder}: a stage 0 checkpoint that dsprune did not write does not say whose moments are "
                f"whose: go on at stage 0 on as many ranks"
            )
        masters = optimizer.get("fp32_groups_flat") or [
            master
            for group in optimizer.get("fp32_groups", [[weights[name] for name in names]])
            for master in group
        ]
        states = optimizer.get("optimizer_state_dict", optimizer)["state"]
        sizes = [weights[name].numel() for name in names]
        for name, numel, (number, offset) in zip(names, sizes, _places(masters, sizes), strict=True):
            self._add(name, _Slice(masters[number], states.get(number, {}), offset, numel))

    def _index_stage12(self, ranks: list[Mapping[str, Any]]) -> None:
        """Stages 1, 2: each rank lists, a group, which stretch of its flat partition is whose."""
        for rank in ranks:
            states = rank["base_optimizer_state"]["state"]
            for group, addresses in enumerate(rank["param_slice_mappings"]):
                flat = rank["single_partition_of_fp32_groups"][group]
                for name, address in addresses.items():
                    self._add(name, _Slice(flat, states.get(group, {}), address.start, address.numel))

    def _index_stage3(self, ranks: list[Mapping[str, Any]], shapes: list[Mapping[str, Any]]) -> None:
        """Stage 3: each rank holds an equal part of every parameter, in the order of the shapes."""
        sizes = {name: prod(shape) for group in shapes for name, shape in group.items()}
        parts = [-(-numel // len(ranks)) for numel in sizes.values()]
        for rank_number, rank in enumerate(ranks):
            flats, states = rank["fp32_flat_groups"], rank["optimizer_state_dict"]["state"]
            places = zip(sizes.items(), parts, _places(flats, parts), strict=True)
            for (name, numel), part, (number, offset) in places:
                real = max(0, min(part, numel - rank_number * part))  # the rest is padding
                self._add(name, _Slice(flats[number], states.get(number, {}), offset, real))


def _places(flats: Sequence[Tensor], sizes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Number of the flat buffer and offset in it, of pieces laid end to end over the buffers."""
    number = offset = 0
    for size in sizes:
        if offset == flats[number].numel():
            number, offset = number + 1, 0
        yield number, offset
        offset += size


def _by_rank(folder: Path) -> list[Path]:
    """The optimizer files, rank 2 before rank 10."""
    paths = folder.glob("*zero_pp_rank_*_optim_states.pt")
    return sorted(paths, key=lambda path: writer_of(path.name))


def read_main_file(folder: Path) -> dict[str, Any]:
    """What a tag says of the model and of itself, as rank 0 wrote it.

    Raises:
        UserError: it is not a DeepSpeed checkpoint, or the file is damaged.
    """
    return _load(main_file(folder))


def main_file(folder: Path) -> Path:
    """Rank 0's file of a tag.

    Raises:
        UserError: it is not a DeepSpeed checkpoint.
    """
    model_files = sorted(folder.glob("*mp_rank_00_model_states.pt"))
    if not model_files:
        raise UserError(f"{folder}: no DeepSpeed checkpoint: give the folder of a tag, or of a run")
    return model_files[0]


def is_checkpoint(folder: Path) -> bool:
    """Return whether DeepSpeed wrote a checkpoint into this folder."""
    return any(folder.glob(MODEL_STATES))


def writer_of(name: str) -> int:
    """Return the rank that wrote a file of DeepSpeed's, by its name."""
    match = re.search(r"pp_rank_(\d+)", name)
    return int(match[1]) if match else 0


def _load(path: Path) -> dict[str, Any]:
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    classes = [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
    with torch.serialization.safe_globals(classes):
        try:
            return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{path}: cannot be read ({reason}): use another checkpoint") from error

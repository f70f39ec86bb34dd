"""Read complete tensors from a DeepSpeed checkpoint, without an engine and on any number of ranks.

Files are memory-mapped, and one tensor at a time is assembled.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsprune.errors import UserError
from dsprune.model.compiled import plain_name
from dsprune.utils.text import first_line
from dsprune.zero.layout import PARAMETER_ORDER
from dsprune.zero.pickles import read_pickle

__all__ = [
    "COUNTERS",
    "WRITTEN",
    "CheckpointFiles",
    "explain_damage",
    "is_checkpoint",
    "main_file",
    "read_frozen",
    "read_main_file",
    "writer_of",
]

WRITTEN = r"\w*mp_rank_\d+_(model|optim)_states\.pt"
"""Pattern of the names of DeepSpeed's files in a checkpoint."""

COUNTERS = ("global_steps", "skipped_steps", "global_samples", "lr_scheduler")
"""Entries of rank 0's file: the engine's counters, and the state of its scheduler."""

DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError, RuntimeError)
"""Errors that a damaged file can raise."""


@dataclass(frozen=True)
class _Slice:
    """A part of a flattened parameter in a flat buffer.

    Attributes:
        flat: the buffer of master weights.
        states: the optimizer's state of the buffer; moments are laid out like `flat`.
        offset: where the part begins in `flat`.
        numel: its length.
    """

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


class CheckpointFiles:
    """The tensors of one tag, which may be of any ZeRO stage.

    Args:
        folder: the tag's folder.

    Attributes:
        folder: as given.
        counters: the entries `COUNTERS`.

    Raises:
        UserError: the folder holds no DeepSpeed checkpoint, or one of its files is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._slices: dict[str, list[_Slice]] = {}
        model = read_main_file(folder)
        with explain_damage(folder):
            self.counters = {name: model[name] for name in COUNTERS}
            paths = folder.glob("*zero_pp_rank_*_optim_states.pt")
            by_rank = sorted(paths, key=lambda path: writer_of(path.name))
            ranks = [read_pickle(path)["optimizer_state_dict"] for path in by_rank]
            if not ranks:
                self._index_stage0(model)
            elif int(ranks[0]["zero_stage"]) == 3:
                self._index_stage3(ranks, model["param_shapes"])
            else:
                self._index_stage12(ranks)

    @property
    def names(self) -> list[str]:
        """Names of the trained parameters, without the prefix of `torch.compile`."""
        return list(self._slices)

    def views(self, name: str) -> dict[str, Tensor]:
        """Return a parameter's complete, flattened "master weights" and its moments, by name.

        Raises:
            UserError: the checkpoint has no such parameter.
        """
        return self.cut(name, 0, self.numel(name))

    def cut(self, name: str, start: int, numel: int) -> dict[str, Tensor]:
        """Return `numel` entries, starting at `start`, of each tensor that `views` returns."""
        with explain_damage(self.folder):
            return self._cut(name, start, numel)

    def _cut(self, name: str, start: int, numel: int) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {}
        place = 0
        for piece in self._pieces(name):
            low, high = max(start - place, 0), min(start + numel - place, piece.numel)
            place += piece.numel
            if low < high:
                for what, view in piece.views():
                    parts.setdefault(what, []).append(view[low:high])
        return {what: torch.cat(views) for what, views in parts.items()}

    def numel(self, name: str) -> int:
        """Return the number of weights of a parameter."""
        return sum(piece.numel for piece in self._pieces(name))

    def scalars(self, name: str) -> dict[str, float]:
        """Return the scalars in the optimizer's state of a parameter, such as `step`."""
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
        if not 0 <= piece.offset <= piece.offset + piece.numel <= piece.flat.numel():
            raise ValueError(
                f"{name} has {piece.numel} entries from {piece.offset} on, of {piece.flat.numel()}"
            )
        if any(not isinstance(value, Tensor | int | float) for value in piece.states.values()):
            raise ValueError(f"the optimizer's state of {name} holds other values than numbers")
        self._slices.setdefault(plain_name(name), []).append(piece)

    def _index_stage0(self, model: Mapping[str, Any]) -> None:
        """Index stage 0: one file. 16-bit runs also have fp32 master weights, per parameter or per group."""
        optimizer, weights, names = model["optimizer"], model["module"], model.get(PARAMETER_ORDER)
        if names is None:
            raise UserError(
                f"{self.folder}: a stage 0 checkpoint that dsprune did not write, so its moments have no names: "
                f"resume at stage 0 on the same number of ranks"
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
        """Index stages 1 and 2: for each group, a rank lists the slices of its flat partition by name."""
        for rank in ranks:
            states = rank["base_optimizer_state"]["state"]
            for group, addresses in enumerate(rank["param_slice_mappings"]):
                flat = rank["single_partition_of_fp32_groups"][group]
                for name, address in addresses.items():
                    self._add(name, _Slice(flat, states.get(group, {}), address.start, address.numel))

    def _index_stage3(self, ranks: list[Mapping[str, Any]], shapes: list[Mapping[str, Any]]) -> None:
        """Index stage 3: each rank holds an equal part of every parameter, in the order of the shapes."""
        sizes = {name: prod(shape) for group in shapes for name, shape in group.items()}
        parts = [-(-numel // len(ranks)) for numel in sizes.values()]
        for rank_number, rank in enumerate(ranks):
            flats, states = rank["fp32_flat_groups"], rank["optimizer_state_dict"]["state"]
            places = zip(sizes.items(), parts, _places(flats, parts), strict=True)
            for (name, numel), part, (number, offset) in places:
                real = max(0, min(part, numel - rank_number * part))  # the rest is padding
                self._add(name, _Slice(flats[number], states.get(number, {}), offset, real))


def read_main_file(folder: Path) -> dict[str, Any]:
    """Read rank 0's file of a tag: the module, the client state, and DeepSpeed's own entries.

    Raises:
        UserError: the folder holds no DeepSpeed checkpoint, or the file is damaged.
    """
    path = main_file(folder)
    content = read_pickle(path)
    with explain_damage(path):
        for name in ("global_steps", "skipped_steps", "global_samples", "dp_world_size"):
            if not isinstance(content.get(name, 1), int) or content.get(name, 1) < 0:
                raise ValueError(f"{name} is {content[name]!r:.100}")
        for name in ("module", "ds_config"):
            if not isinstance(content.get(name, {}), dict):
                raise TypeError(f"{name} is a {type(content[name]).__name__}")
    return content


def read_frozen(
    folder: Path, shapes: Mapping[str, Sequence[int]], module: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Assemble the frozen parameters that the state of the module holds empty: stage 3 writes a part on each rank.

    Args:
        folder: the tag's folder.
        shapes: the complete shapes of the frozen parameters.
        module: the state of the module in rank 0's file.

    Raises:
        UserError: a file is damaged.
    """
    with explain_damage(folder):
        divided = {name: shape for name, shape in shapes.items() if module[name].numel() < prod(shape)}
        paths = folder.glob("*zero_pp_rank_*_model_states.pt") if divided else ()
        ranks = [
            read_pickle(path)["frozen_param_fragments"]
            for path in sorted(paths, key=lambda path: writer_of(path.name))
        ]
        return {
            name: torch.cat([parts[name] for parts in ranks])[: prod(shape)].view(shape)
            for name, shape in divided.items()
        }


def main_file(folder: Path) -> Path:
    """Return the path of rank 0's file of a tag.

    Raises:
        UserError: the folder holds no DeepSpeed checkpoint.
    """
    model_files = sorted(folder.glob("*mp_rank_00_model_states.pt"))
    if not model_files:
        raise UserError(f"{folder}: no DeepSpeed checkpoint: give the folder of a tag, or of a run")
    return model_files[0]


@contextmanager
def explain_damage(where: Path) -> Iterator[None]:
    """Replace any error that a damaged file, or a file of another program, causes by a UserError."""
    try:
        yield
    except DAMAGE as error:
        reason = f"{type(error).__name__}: {first_line(error)}"[:200]
        raise UserError(
            f"{where}: not as DeepSpeed and dsprune write it ({reason}): use another checkpoint"
        ) from error


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds a DeepSpeed checkpoint."""
    return any(folder.glob("*_states.pt"))  # a missing file is reported when the checkpoint is read


def writer_of(name: str) -> int:
    """Return the rank that wrote one of DeepSpeed's files, by the file's name."""
    match = re.search(r"pp_rank_(\d+)", name)
    return int(match[1]) if match else 0


def _places(flats: Sequence[Tensor], sizes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the number of the buffer, and the offset in it, of each piece; consecutive pieces fill the buffers."""
    number = offset = 0
    for size in sizes:
        if offset == flats[number].numel():
            number, offset = number + 1, 0
        yield number, offset
        offset += size

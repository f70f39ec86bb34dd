"""Ranks that do the same: a host with other code, another recipe or other data would spoil the run, unseen."""

import hashlib
import importlib.metadata
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch.distributed as dist
from datasets import Dataset

import dsprune
from dsprune.distributed.ranks import Ranks
from dsprune.errors import UserError

__all__ = ["check_same", "data_digest", "software"]

LIBRARIES = ("torch", "deepspeed", "transformers")


def check_same(ranks: Ranks, facts: Mapping[str, Any]) -> None:
    """Every rank has what rank 0 has. Collective: every rank must call this.

    Raises:
        UserError: names the first rank, its host, and the first of the facts that differs; on every rank.
    """
    everyone: list[Any] = [None] * ranks.world_size
    mine = (socket.gethostname(), dict(facts))
    if ranks.world_size == 1:
        return
    dist.all_gather_object(everyone, mine)
    (first_host, expected), *others = everyone
    for rank, (host, found) in enumerate(others, start=1):
        for what, value in found.items():
            if value != expected.get(what):
                raise UserError(
                    f"rank {rank} on {host}: {what} is {value}, and {expected.get(what)} on rank 0 on {first_host}: "
                    f"give all ranks the same"
                )


def software() -> dict[str, str]:
    """What the ranks run."""
    package = Path(dsprune.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"dsprune's code": digest.hexdigest()[:16], **versions}


def data_digest(data: Dataset) -> str:
    """A hash of all examples in their order, however they are stored."""
    digest = hashlib.sha256()
    table = data.flatten_indices().data if data._indices is not None else data.data
    for name in sorted(table.column_names):
        digest.update(name.encode())
        column = table.column(name)
        while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            digest.update(pc.list_value_length(column).to_numpy().tobytes())
            column = pc.list_flatten(column)
        values = column.to_numpy()
        digest.update(values.tobytes() if values.dtype != object else repr(values.tolist()).encode())
    return digest.hexdigest()[:16]

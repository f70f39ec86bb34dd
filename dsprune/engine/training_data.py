"""The training data of an engine: datasets, and streams, for which DeepSpeed makes no loader."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import datasets
from deepspeed import DeepSpeedEngine
from torch.utils.data import DataLoader, IterableDataset

from dsprune.errors import UserError

__all__ = ["check_training_data", "is_stream", "make_loader", "with_tensors"]


def check_training_data(data: Any, collate_fn: Any) -> None:
    """Check that training data is a dataset, and that a function makes batches of it.

    Raises:
        UserError: it is a loader, or not a dataset, or the function is none.
    """
    if collate_fn is not None and not callable(collate_fn):
        raise UserError(
            f"initialize: collate_fn is a {type(collate_fn).__name__}: give a function that makes a batch of a list of "
            f"examples, or leave it out"
        )
    if isinstance(data, DataLoader):
        raise UserError(
            "initialize: training_data is a DataLoader: give its dataset (and collate_fn), since DeepSpeed makes the "
            "loader; or give steps_per_epoch and keep your loader"
        )
    is_indexed = hasattr(data, "__getitem__") and not isinstance(data, str)
    if data is not None and not is_stream(data) and not is_indexed:
        raise UserError(
            f"initialize: training_data is a {type(data).__name__}: give a dataset with __getitem__ and __len__, or "
            f"an IterableDataset"
        )


def is_stream(data: Any) -> bool:
    """Return whether a dataset can only be read in order."""
    return isinstance(data, IterableDataset | datasets.IterableDataset)


def with_tensors(data: Any, collate_fn: Any) -> Any:
    """Return the data with tensors; a Hugging Face dataset without a format returns lists."""
    is_plain = isinstance(data, datasets.Dataset) and data.format["type"] is None
    is_plain |= isinstance(data, datasets.IterableDataset) and data._formatting is None
    return data.with_format("torch") if is_plain and collate_fn is None else data


def make_loader(engine: DeepSpeedEngine, data: Any, collate_fn: Callable[..., Any] | None) -> DataLoader[Any]:
    """Return a loader of this rank's share of a stream; DeepSpeed's own needs a length."""
    share = _Share(data, engine.global_rank, engine.dp_world_size)
    size, drop_last = engine.train_micro_batch_size_per_gpu(), engine.dataloader_drop_last()
    return DataLoader(share, size, collate_fn=collate_fn, drop_last=drop_last)


class _Share(IterableDataset[Any]):
    """Every `size`-th example of a stream, starting at the `rank`-th; each rank has the same number of examples."""

    def __init__(self, data: Any, rank: int, size: int) -> None:
        self._data, self._rank, self._size = data, rank, size

    def __iter__(self) -> Iterator[Any]:
        stream = iter(self._data)
        while len(examples := list(islice(stream, self._size))) == self._size:
            yield examples[self._rank]

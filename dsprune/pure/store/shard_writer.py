"""One shard in the making: filled in any order, saved when complete."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dsprune.pure.store.codecs import codec_for
from dsprune.pure.store.fingerprint import FINGERPRINT
from dsprune.pure.store.manifest import shard_name
from dsprune.pure.store.plan import StorePlan
from dsprune.pure.store.tensor_file import write_tensors

__all__ = ["ShardWriter"]


class ShardWriter:
    """Collects the records of one shard, batch by batch, in whatever order they are computed.

    Attributes:
        samples: indices in the dataset of the shard's records.
    """

    def __init__(self, plan: StorePlan, number: int) -> None:
        self._plan, self._number = plan, number
        records = plan.records(number)
        self.samples = plan.samples[records]
        self._offsets = {
            name: np.concatenate([[0], np.cumsum(rows[records])]) for name, rows in plan.rows.items()
        }
        self._codecs = {name: codec_for(plan.spec, output) for name, output in plan.spec.outputs.items()}
        self._columns = {
            name: {
                key: torch.empty(int(self._offsets[name][-1]), *column.shape, dtype=column.dtype)
                for key, column in codec.columns.items()
            }
            for name, codec in self._codecs.items()
        }
        self._is_put = np.zeros(len(self.samples), dtype=bool)

    def put(self, records: Sequence[int], outputs: Mapping[str, Tensor]) -> None:
        """Keep what the teacher said of some records.

        Args:
            records: places in `samples`.
            outputs: for each output the rows of these records, one record after the other: logits, or for
                kind `hidden` the input of the last linear layer.

        Raises:
            UserError: some values are no finite numbers in the type of the store.
        """
        for name, codec in self._codecs.items():
            offsets = self._offsets[name]
            places = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in records])
            assert len(outputs[name]) == len(places), (name, len(outputs[name]), len(places))
            for key, rows in codec.encode(outputs[name]).items():
                self._columns[name][key][torch.from_numpy(places)] = rows.cpu()
        self._is_put[list(records)] = True

    def save(self, folder: Path) -> None:
        """Write the shard. A shard that is there already must be the same.

        Raises:
            UserError: there is another one.
        """
        assert self._is_put.all(), (
            f"{int((~self._is_put).sum())} records of shard {self._number} were not put"
        )
        fingerprints = self._plan.fingerprints[self._plan.records(self._number)]
        tensors = {
            "fingerprint": torch.from_numpy(fingerprints.view(np.uint8).reshape(-1, FINGERPRINT.itemsize))
        }
        for name, columns in self._columns.items():
            tensors[f"{name}.offsets"] = torch.from_numpy(self._offsets[name])
            tensors |= {f"{name}.{key}": tensor for key, tensor in columns.items()}
        header = {**self._plan.header, "shard": self._number}
        write_tensors(folder / shard_name(self._number), tensors, header)

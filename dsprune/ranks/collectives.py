"""Collectives on a process group, with a count of the bytes."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dsprune.ranks.group import current_ranks

__all__ = ["Comm", "DelayedMax", "all_reduce_", "barrier", "gather_in_order", "world_comm"]

T = TypeVar("T")


class Comm:
    """A process group.

    Attributes:
        rank: this rank in the group.
        size: number of ranks.
        bytes_sent: bytes of the tensors that this rank has passed to collectives.
        bytes_received: bytes of the results.
        num_messages: number of these collectives.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, device: torch.device | str = "cpu") -> None:
        """Wrap a group whose backend communicates tensors on a device.

        None means this rank alone, or ranks with replicas that all compute the same.
        """
        self.group = group
        self._device = torch.device(device)
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)
        self.bytes_sent = self.bytes_received = self.num_messages = 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over ranks, on the CPU. Collective: every rank must call this."""
        return self._all_reduce(tensor, dist.ReduceOp.SUM)

    def all_reduce_max(self, tensor: Tensor) -> Tensor:
        """Return the maximum over ranks, without NaN, on the CPU. Collective: every rank must call this."""
        return self._all_reduce(tensor, dist.ReduceOp.MAX)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return the ranks' tensors, stacked by rank, on the CPU. Collective: every rank must call this."""
        if self.size == 1:
            return tensor.cpu().unsqueeze(0)
        message = self._message(tensor)
        gathered = [torch.empty_like(message) for _ in range(self.size)]
        dist.all_gather(gathered, message, group=self.group)
        return self._received(torch.stack(gathered))

    def all_to_all(self, messages: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """Send a 1-D tensor to every rank, and return the tensors received, on the CPU.

        Collective: every rank must call this. `sizes` has the number of values that each rank sends to this one.
        """
        if self.size == 1:
            return [messages[0].cpu()]
        message = self._message(torch.cat(list(messages)))
        received = message.new_empty(sum(sizes))
        lengths = [values.numel() for values in messages]
        dist.all_to_all_single(received, message, list(sizes), lengths, group=self.group)
        return list(self._received(received).split(list(sizes)))

    def all_gather_objects(self, item: T) -> list[T]:
        """Return the ranks' picklable items by rank. Collective: every rank must call this."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item, group=self.group)
        return items

    def gather_objects(self, item: T) -> list[T] | None:
        """Return the picklable items by rank on rank 0, else None. Collective: every rank must call this."""
        if self.group is None:
            return [item]
        items: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(item, items, dst=dist.get_global_rank(self.group, 0), group=self.group)
        return items

    def _all_reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size == 1:
            return tensor.cpu()
        message = self._message(tensor)
        dist.all_reduce(message, op=operation, group=self.group)
        return self._received(message)

    def _message(self, tensor: Tensor) -> Tensor:
        """Copy the tensor to memory that the backend may overwrite, and count its bytes."""
        message = tensor.to(self._device, copy=True, memory_format=torch.contiguous_format)
        self.bytes_sent += message.nbytes
        return message

    def _received(self, result: Tensor) -> Tensor:
        """Return the result of a collective on the CPU, and count its bytes."""
        self.bytes_received += result.nbytes
        self.num_messages += 1
        return result.cpu()


def world_comm(device: torch.device | str = "cpu") -> Comm:
    """Return the default process group, or only this process if there is one rank; `device` as for `Comm`."""
    return Comm(dist.group.WORLD if current_ranks().world_size > 1 else None, device)


def gather_in_order(items: Mapping[int, T], comm: Comm) -> list[T]:
    """Return the items of all ranks, sorted by key; only one rank has a key.

    Collective: every rank must call this.
    """
    everything = {key: item for part in comm.all_gather_objects(items) for key, item in part.items()}
    return [everything[key] for key in sorted(everything)]


def barrier() -> None:
    """Wait for all ranks of the default process group. Collective: every rank must call this."""
    dist.barrier()


def all_reduce_(tensor: Tensor) -> Tensor:
    """Sum a tensor over the default process group, in place. Collective: every rank must call this."""
    dist.all_reduce(tensor)
    return tensor


class DelayedMax:
    """The maximum of a number over the ranks. It is available one call later, so no rank waits for it.

    Collective: every rank must create one, and call `exchange` the same number of times.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo") if current_ranks().world_size > 1 else None
        self._answer = torch.zeros((), dtype=torch.int32)
        self._work: dist.Work | None = None

    def result(self) -> int:
        """Return the maximum of the last `exchange`; 0 before the first."""
        if self._work is not None:
            self._work.wait()
        return int(self._answer)

    def exchange(self, number: int) -> None:
        """Start to exchange this rank's number, in the background."""
        self._answer = torch.tensor(number, dtype=torch.int32)
        if self._group is not None:
            self._work = dist.all_reduce(self._answer, op=dist.ReduceOp.MAX, group=self._group, async_op=True)

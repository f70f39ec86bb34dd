"""The two collectives that pruning uses, and a count of the bytes they are handed."""

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Comm"]


class Comm:
    """A process group as selection and masks see it.

    Attributes:
        rank: this rank in the group.
        size: number of ranks.
        bytes_sent: bytes that this rank has handed to collectives.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, device: torch.device | str = "cpu") -> None:
        """Wraps a group whose backend communicates tensors on `device`.

        None is this rank alone, which also serves ranks that hold replicas: each does the same and agrees.
        """
        self.group = group
        self._device = torch.device(device)
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)
        self.bytes_sent = 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, as a new tensor on the CPU. Collective: every rank must call this."""
        if self.size == 1:
            return tensor.cpu()
        message = self._message(tensor)
        dist.all_reduce(message, group=self.group)
        return message.cpu()

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The ranks' tensors stacked by rank, on the CPU. Collective: every rank must call this."""
        if self.size == 1:
            return tensor.cpu().unsqueeze(0)
        message = self._message(tensor)
        gathered = [torch.empty_like(message) for _ in range(self.size)]
        dist.all_gather(gathered, message, group=self.group)
        return torch.stack(gathered).cpu()

    def _message(self, tensor: Tensor) -> Tensor:
        """A copy of the tensor that the backend may overwrite, counted."""
        message = tensor.to(self._device, copy=True, memory_format=torch.contiguous_format)
        self.bytes_sent += message.numel() * message.element_size()
        return message

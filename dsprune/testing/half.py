"""fp16 on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from deepspeed.accelerator import get_accelerator

__all__ = ["fp16_allowed"]


@contextmanager
def fp16_allowed() -> Iterator[None]:
    """Have DeepSpeed train in fp16 on any accelerator. On a CPU it refuses to, though all of its code works there."""
    accelerator = get_accelerator()
    dtypes = [*accelerator.supported_dtypes(), torch.half]
    with mock.patch.multiple(accelerator, is_fp16_supported=lambda: True, supported_dtypes=lambda: dtypes):
        yield

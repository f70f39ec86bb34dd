"""torch's compiler, which is off in tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch

__all__ = ["compiler"]


@contextmanager
def compiler() -> Iterator[None]:
    """Let torch compile inside the block, and check that it did."""
    frames = torch._dynamo.utils.counters["frames"]
    torch._dynamo.reset()
    frames.clear()
    with patch.dict(os.environ), torch._dynamo.config.patch(disable=False):
        os.environ.pop("TORCHDYNAMO_DISABLE", None)
        yield
    assert frames["ok"], "nothing was compiled"

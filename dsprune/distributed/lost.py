"""What a backend says when a rank is gone, in words that help."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from dsprune.errors import RunFailedError

__all__ = ["lost_ranks_explained"]

SIGNS = ("closed by peer", "reset by peer", "Timed out waiting", "Connection refused", "Broken pipe")
"""What gloo's messages have in common when a rank does not answer."""


@contextmanager
def lost_ranks_explained() -> Iterator[None]:
    """Collectives that fail inside because another rank is gone.

    Raises:
        RunFailedError: in place of the backend's error.
    """
    try:
        yield
    except RuntimeError as error:
        message = str(error)
        if not isinstance(error, dist.DistError) and not any(sign in message for sign in SIGNS):
            raise
        reason = message.strip().splitlines()[0]
        raise RunFailedError(
            f"another rank is gone ({reason}): the same command goes on from the newest checkpoint"
        ) from error

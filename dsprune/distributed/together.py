"""Ranks that fail together: bad input which one rank meets ends all of them, and none is left waiting."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from dsprune.distributed.ranks import Ranks
from dsprune.errors import UserError

__all__ = ["on_every_rank", "on_first_rank"]

T = TypeVar("T")


def on_first_rank(ranks: Ranks, work: Callable[[], T]) -> T:
    """What `work` returns on the first rank, on every rank. Collective: every rank must call this.

    Raises:
        UserError: that of the first rank.
    """
    answer: list[Any] = [None, None]
    if ranks.is_first:
        answer = _attempt(work)
    if ranks.world_size > 1:
        dist.broadcast_object_list(answer)
    return _value(answer)


def on_every_rank(ranks: Ranks, work: Callable[[], T]) -> T:
    """What `work` returns on this rank, when it went well on all. Collective: every rank must call this.

    Raises:
        UserError: that of the first rank that has one.
    """
    answer = _attempt(work)
    messages = [answer[1]]
    if ranks.world_size > 1:
        messages = [None] * ranks.world_size
        dist.all_gather_object(messages, answer[1])
    failed = next((message for message in messages if message is not None), None)
    return _value([answer[0], failed])


def _attempt(work: Callable[[], Any]) -> list[Any]:
    try:
        return [work(), None]
    except UserError as error:
        return [None, str(error)]


def _value(answer: list[Any]) -> Any:
    value, message = answer
    if message is not None:
        raise UserError(message)
    return value

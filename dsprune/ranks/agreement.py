"""Agreement between ranks: an error on one rank ends all ranks, and all ranks have the same input.

Otherwise the other ranks would wait for the rank that ended.
"""

import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch.distributed as dist

from dsprune.errors import UserError
from dsprune.ranks.collectives import world_comm
from dsprune.ranks.group import current_ranks
from dsprune.utils.files import describe_system_error

__all__ = ["check_same", "on_every_rank", "on_first_rank"]

T = TypeVar("T")


def on_first_rank(work: Callable[[], T]) -> T:
    """Run `work` on the first rank and return its result on all. Collective: every rank must call this.

    Raises:
        UserError: on every rank, if `work` raises it on the first rank.
    """
    answer: list[Any] = [None, None]
    ranks = current_ranks()
    if ranks.is_first:
        answer = _attempt(work)
    if ranks.world_size > 1:
        dist.broadcast_object_list(answer)
    received: T = _value(answer)
    return received


def on_every_rank(work: Callable[[], T]) -> T:
    """Run `work` on every rank and return this rank's result. Collective: every rank must call this.

    Raises:
        UserError: on every rank, if `work` raises one on any; the error of the lowest such rank.
    """
    value, message = _attempt(work)
    messages = world_comm().all_gather_objects(message)
    received: T = _value([value, next((each for each in messages if each is not None), None)])
    return received


def check_same(facts: Mapping[str, Any]) -> None:
    """Check that every rank has the same facts as rank 0. Collective: every rank must call this.

    A host with other code, another recipe or other data would corrupt the run without an error. The keys of `facts`
    name the facts.

    Raises:
        UserError: on every rank; names the first rank that differs, its host and the first fact that differs.
    """
    (first_host, expected), *others = world_comm().all_gather_objects((socket.gethostname(), dict(facts)))
    for rank, (host, found) in enumerate(others, start=1):
        for what, value in found.items():
            if value != expected.get(what):
                raise UserError(
                    f"rank {rank} on {host}: {what} is {value}, and {expected.get(what)} on rank 0 on {first_host}: "
                    f"give all ranks the same"
                )


def _attempt(work: Callable[[], Any]) -> list[Any]:
    """Return [result, None], or [None, message] if `work` raises a UserError or an error of the system."""
    try:
        return [work(), None]
    except UserError as error:
        return [None, str(error)]
    except OSError as error:
        return [None, describe_system_error(error)]


def _value(answer: list[Any]) -> Any:
    value, message = answer
    if message is not None:
        raise UserError(message)
    return value

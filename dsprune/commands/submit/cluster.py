"""What a cluster has, as `sinfo` tells it, and whether it is enough for a job."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from dsprune.errors import UserError

__all__ = ["Node", "Request", "ask_sinfo", "check", "parse_nodes", "parse_time"]

# Partition, node, state, generic resources, longest time: a line for each node of each partition.
FORMAT = "%P|%N|%T|%G|%l"


IN_USE = frozenset({"idle", "mixed", "allocated", "completing", "planned", "reserved"})
"""States of nodes that jobs run on, now or when it is their turn."""


_GPUS = re.compile(r"gpu:(?:[^:,()]+:)?(\d+)(?=[(,]|$)")


_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<step>\d+(?::\d+){0,2})")


@dataclass(frozen=True)
class Node:
    """A node, as part of a partition.

    Attributes:
        partition: its name.
        is_default: whether jobs that name no partition go there.
        name: of the node.
        is_up: whether it takes jobs.
        num_gpus: its GPUs.
        max_time: how long a job of the partition may run; None = as long as it likes.
    """

    partition: str
    is_default: bool
    name: str
    is_up: bool
    num_gpus: int
    max_time: timedelta | None


@dataclass(frozen=True)
class Request:
    """What a job asks for; None = what the batch script says.

    Attributes:
        nodes: number of nodes.
        gpus_per_node: GPUs of each; 0 = none, one rank a node on CPU.
        time: as Slurm writes it.
        partition: name of a partition.
    """

    nodes: int
    gpus_per_node: int | None
    time: str | None
    partition: str | None


def ask_sinfo() -> list[Node]:
    """The nodes of this cluster, once for each partition that they are in.

    Raises:
        UserError: Slurm's commands are not here, or its controller does not answer.
    """
    for command in ("sbatch", "sinfo"):
        if shutil.which(command) is None:
            raise UserError(
                f"{command}: not on PATH: submit on a login node of a Slurm cluster, or load its slurm module"
            )
    asked = subprocess.run(
        ["sinfo", "--noheader", "--Node", f"--format={FORMAT}"], capture_output=True, text=True, check=False
    )
    if asked.returncode != 0:
        raise UserError(f"sinfo: {_last_line(asked.stderr)}: is the cluster up?")
    return parse_nodes(asked.stdout)


def parse_nodes(table: str) -> list[Node]:
    """Read what `sinfo` prints in `FORMAT`.

    Examples:
        >>> parse_nodes("gpu*|n1|idle|gpu:a100:4(S:0-1)|2-00:00:00")[0].num_gpus
        4
    """
    return [_parse_node(*line.split("|")) for line in table.splitlines() if line]


def _parse_node(partition: str, name: str, state: str, resources: str, limit: str) -> Node:
    return Node(
        partition=partition.removesuffix("*"),
        is_default=partition.endswith("*"),
        name=name,
        # Signs after a state say more about it; "*" is that the node does not answer.
        is_up=state.rstrip("~#!%$@^-+") in IN_USE,
        num_gpus=sum(map(int, _GPUS.findall(resources))),
        max_time=None if limit == "infinite" else parse_time(limit),
    )


def parse_time(text: str) -> timedelta:
    """A time as Slurm writes it: MINUTES, MINUTES:SECONDS, H:M:S, DAYS-H, DAYS-H:M, DAYS-H:M:S.

    Raises:
        UserError: it is none of these.

    Examples:
        >>> parse_time("1-12"), parse_time("90")
        (datetime.timedelta(days=1, seconds=43200), datetime.timedelta(seconds=5400))
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise UserError(f"--time: value {text!r}: write minutes, H:M:S or DAYS-H:M:S, as in 24:00:00")
    parts = [int(part) for part in match["step"].split(":")]
    units: tuple[str, ...] = ("hours", "minutes", "seconds")
    if match["days"] is None and len(parts) < 3:
        units = units[1:]
    return timedelta(days=int(match["days"] or 0), **dict(zip(units, parts, strict=False)))


def check(request: Request, nodes: Iterable[Node]) -> None:
    """Refuse what no queueing will bring.

    Raises:
        UserError: the partition does not exist, or has too few nodes, too few GPUs a node or too little time.
    """
    nodes = list(nodes)
    own = [node for node in nodes if _is_asked_for(node, request)]
    names = ", ".join(sorted({node.partition for node in nodes}))
    if not own:
        value, reason = (
            ("missing", "default") if request.partition is None else (request.partition, "such partition")
        )
        raise UserError(f"--partition: value {value}: there is no {reason}: use one of {names}")
    partition, longest = own[0].partition, own[0].max_time
    wanted = None if request.time is None else parse_time(request.time)
    if wanted is not None and longest is not None and wanted > longest:
        raise UserError(
            f"--time: value {request.time}: partition {partition} allows {longest} at most: ask for less "
            f"(a job whose time is up goes on from its checkpoint in the next), or use another of {names}"
        )
    gpus, most = request.gpus_per_node or 0, max(node.num_gpus for node in own)
    if gpus > most:
        raise UserError(
            f"--gpus-per-node: value {gpus}: the nodes of partition {partition} have {most} at most: ask for "
            f"{most}, or use another of {names}"
        )
    fitting = sum(node.is_up and node.num_gpus >= gpus for node in own)
    if request.nodes > fitting:
        suitable = f"up with {gpus} GPUs" if gpus else "up"
        raise UserError(
            f"--nodes: value {request.nodes}: partition {partition} has {len(own)} nodes, {fitting} of them "
            f"{suitable}: ask for {fitting}, or use another of {names}"
        )


def _is_asked_for(node: Node, request: Request) -> bool:
    return node.is_default if request.partition is None else node.partition == request.partition


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no answer"])[-1]

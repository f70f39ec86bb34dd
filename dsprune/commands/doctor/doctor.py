"""`dsprune doctor`: what this machine can run, one line a check, and the way out where it cannot."""

from collections.abc import Callable
from functools import partial

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dsprune.commands.doctor import machine, software
from dsprune.commands.doctor.finding import Finding, Level
from dsprune.zero.ops import find_stale_locks, prepare_builds

__all__ = ["doctor", "find_stale_locks"]

STYLES: dict[Level, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(console: Console, build_ops: bool = False) -> int:
    """Print what this machine can run; return 1 when a check failed, else 0.

    Args:
        console: where the table goes.
        build_ops: compile DeepSpeed's extensions now, before ranks start and collide over them.
    """
    prepare_builds()
    with console.status("looking at this machine"):
        findings = [check() for check in _checks(build_ops)]
    table = Table("check", "", "found", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(finding.check, Text(finding.level, STYLES[finding.level]), Text(finding.message))
    console.print(table)
    return int(any(finding.level == "fail" for finding in findings))


def _checks(build_ops: bool) -> tuple[Callable[[], Finding], ...]:
    return (
        software.check_python,
        software.check_packages,
        software.check_torch,
        software.check_accelerator,
        software.check_compiler,
        software.check_build_locks,
        partial(software.check_ops, build=build_ops),
        machine.check_threads,
        machine.check_ranks,
        machine.check_slurm,
        machine.check_wandb,
        machine.check_hub,
        machine.check_disk,
        machine.check_open_files,
    )

"""`dsprune doctor`: check what this machine can run, one line a check, with the way out of each problem."""

from collections.abc import Callable
from functools import partial

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dsprune.commands.doctor import Finding, Level, machine, software
from dsprune.zero.ops import prepare_builds

__all__ = ["doctor"]

STYLES: dict[Level, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(console: Console, build_ops: bool = False) -> int:
    """Run and print all checks; return 1 when one failed, else 0.

    Args:
        console: where to print.
        build_ops: compile DeepSpeed's extensions now: ranks that start together must not compile them at once.
    """
    prepare_builds()
    with console.status("checking this machine"):
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

"""What made a figure: command, seeds, versions."""

from collections.abc import Sequence
from pathlib import Path

from dsprune.errors import UserError
from dsprune.report.blocks import Text
from dsprune.report.runs import Run

__all__ = ["command_of", "origin_of", "verdict"]

SHOWN = ("dsprune", "torch", "deepspeed", "transformers")


def command_of(run: Run) -> str:
    """The command that made a run; where it was not written down, one that would do it again."""
    return run.start.get("command") or f"dsprune train {run.path}/recipe.yaml output=..."


def origin_of(runs: Sequence[Run]) -> str:
    """Command, seeds and versions in a line; of several runs, that there are several commands."""
    seeds = ", ".join(str(seed) for seed in sorted({run.recipe.seed for run in runs}))
    commands = dict.fromkeys(map(command_of, runs))
    made_by = next(iter(commands)) if len(commands) == 1 else f"{len(runs)} runs, commands below"
    plural = "s" if "," in seeds else ""
    return f"{made_by} · seed{plural} {seeds} · {_versions(runs)}"


def _versions(runs: Sequence[Run]) -> str:
    """Each package with its version, or versions where runs had different ones."""
    found = []
    for name in SHOWN:
        known = {version for run in runs if (version := run.start.get("versions", {}).get(name))}
        if known:
            found.append(f"{name} {' and '.join(sorted(known))}")
    return ", ".join(found) or "versions not written down"


def verdict(path: Path) -> Text:
    """Audit a run or a model folder, and say what came of it."""
    from dsprune.checkpoint.audit import audit_folder, folders_to_audit  # imports DeepSpeed: slow

    try:
        results = [audit_folder(folder) for folder in folders_to_audit(path)]
    except UserError as error:
        return Text(f"Not audited: {error}")
    for result in results:
        if result.findings:
            return Text(f"Audit failed. {result.failure()}", "bad")
    return Text("; ".join(f"{result.folder}: every invariant holds" for result in results), "good")

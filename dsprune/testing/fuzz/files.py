"""The file targets: runs, checkpoints, models, compact models and stores with one damaged file."""

import functools
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dsprune.commands.cli import run_command
from dsprune.distillation.store import open_store
from dsprune.engine.engine import PruningEngine
from dsprune.ranks.ranks import find_ranks
from dsprune.recipe import load_recipe
from dsprune.report.runs import read_run
from dsprune.testing.fuzz.attempt import Attempt, Outcome, Step, named
from dsprune.testing.fuzz.damage import damage_file, damage_json, damage_tensors, list_again, plant_pickle
from dsprune.testing.stores import capture, plan, spec
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, write_recipe
from dsprune.train.metrics import Meter
from dsprune.train.preflight import preflight
from dsprune.train.resume import find_start_point, restore, run_folder
from dsprune.train.setup import assemble
from dsprune.utils.ports import free_port
from dsprune.zero.launch import join_ranks

__all__ = ["FILE_TARGETS"]


MARKER = "ran"
"""The folder that a planted pickle creates next to the input."""

NOT_READ = ("zero_to_fp32.py", "zero_to_torch.py", "report.html", "report.md", ".csv")
"""Endings of the names of files that no command reads."""

CHECK_FAILED = frozenset({1})

SLOW = 0.05
"""Fraction of the inputs for a slow step, which trains or draws."""

UNDAMAGED = 0.03
"""Fraction of the inputs that are not damaged, and must be accepted."""


@dataclass(frozen=True)
class Material:
    """Undamaged files.

    Attributes:
        recipe: the recipe of the runs.
        run: a finished run with two checkpoints.
        stopped: runs that were not finished: the same one, and one at ZeRO stage 3.
        compact: its model in compact form.
        stores: a teacher store of each kind.
    """

    recipe: Path
    run: Path
    stopped: tuple[Path, ...]
    compact: Path
    stores: tuple[Path, ...]


@functools.cache
def material(folder: Path) -> Material:
    """Train a tiny model, once per process, and write the files that the targets damage."""
    os.environ.update(
        TORCHDYNAMO_DISABLE="1", RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1"
    )
    os.environ.setdefault("MASTER_PORT", str(free_port()))
    bert, data = tiny_bert(folder / "bert"), tiny_sentiment(folder / "data", 320, 64)
    tracking = {"log_every": 3, "eval_every": 10}
    recipe = write_recipe(folder / "tiny.yaml", bert, data, checkpoints={"every": 20}, tracking=tracking)
    runs, compact = folder / "runs", folder / "compact"
    for command in (
        ["train", str(recipe)],
        ["train", str(recipe), "name=stage-3", "deepspeed=zero3"],
        ["export", str(runs / "tiny"), "--to", str(compact), "--compact"],
    ):
        if code := run_command(command):
            raise RuntimeError(f"{command[0]}: exit code {code}")
    stopped = tuple(_unfinished(runs / name, folder / "stopped" / name) for name in ("tiny", "stage-3"))
    kinds = ("full", "topk", "hidden")
    stores = tuple(capture(folder / f"store-{kind}", plan(spec(kind), shard_bytes=4000)) for kind in kinds)
    return Material(recipe, runs / "tiny", stopped, compact, stores)


def _unfinished(run: Path, copy: Path) -> Path:
    return Path(shutil.copytree(run, copy, ignore=shutil.ignore_patterns("model", "summary.json")))


@dataclass(frozen=True)
class FileTarget:
    """A folder with one damaged file.

    Attributes:
        sources: folders, one of which is copied.
        steps: makes the steps that read the copy (first argument) and may write to the second; one is chosen.
        slow: makes other steps, which are chosen rarely.
    """

    sources: Sequence[Path]
    steps: Callable[[Path, Path], Sequence[Step]]
    slow: Callable[[Path, Path], Sequence[Step]] | None = None

    def attempt(self, folder: Path, rng: random.Random) -> Attempt:
        """Copy a folder, damage a file, in half of the cases correct the checksums, and choose a step."""
        copy = Path(shutil.copytree(rng.choice(self.sources), folder / "copy"))
        files = [
            path for path in sorted(copy.rglob("*")) if path.is_file() and not path.name.endswith(NOT_READ)
        ]
        path, what = rng.choice(files), "undamaged"
        if rng.random() > UNDAMAGED:
            what = f"{path.parent.name}/{_damage(path, folder / MARKER, rng)}"
            if rng.random() < 0.5:
                what += ", listed again"
                list_again(path)

        def check(outcomes: Sequence[Outcome]) -> str | None:
            if (folder / MARKER).exists():
                return "a pickle ran"
            refused = [outcome for outcome in outcomes if outcome.code]
            return f"{refused[0].step}: {refused[0].err}" if refused and what == "undamaged" else None

        steps = self.slow if self.slow and rng.random() < SLOW else self.steps
        return Attempt(what, [rng.choice(steps(copy, folder / "output"))], check, CHECK_FAILED)


def _damage(path: Path, marker: Path, rng: random.Random) -> str:
    """Damage a file, preferably its values instead of its bytes if the format is known."""
    if path.suffix in (".json", ".jsonl") and rng.random() < 0.7:
        return damage_json(path, rng)
    if path.suffix in (".pt", ".safetensors") and rng.random() < 0.5:
        return damage_tensors(path, rng)
    if path.suffix == ".pt" and rng.random() < 0.3:
        return plant_pickle(path, marker)
    return damage_file(path, rng)


# ---- the steps


def _of_run(_: Material, copy: Path, output: Path) -> list[Step]:
    run = str(copy)
    return [
        ["status", run],
        ["audit", run],
        ["export", run, "--to", f"{output}-model"],
        ["export", run, "--to", f"{output}-compact", "--compact"],
        named(lambda: _read(copy), "read_run"),
    ]


def _read(copy: Path) -> None:
    run = read_run(copy)
    assert run.score is None or isinstance(run.score, float)
    assert run.last_step >= 0


def _reports(_: Material, copy: Path, output: Path) -> list[Step]:
    command = ["report", str(copy), "--output", f"{output}-page"]
    return [command, [*command, "--no-audit"]]


def _of_stopped(made: Material, copy: Path, output: Path) -> list[Step]:
    def resumed(name: str, folder: Path, checkpoint: Path | None) -> Step:
        return named(lambda: resume(made.recipe, folder, checkpoint), name)

    return [
        resumed("resume", copy, None),
        resumed("resume_the_newest", output, copy / "checkpoints"),
        resumed("resume_one", output, copy / "checkpoints" / "global_step40"),
        ["audit", str(copy)],
        ["export", str(copy), "--to", f"{output}-model"],
    ]


def _trainings(made: Material, copy: Path, output: Path) -> list[Step]:
    train = ["train", str(made.recipe)]
    return [
        [*train, f"name={copy.name}", f"output={copy.parent}"],
        [*train, f"output={output}", "--resume", str(copy / "checkpoints")],
    ]


def _of_model(made: Material, copy: Path, output: Path) -> list[Step]:
    data = made.recipe.parent / "data" / "validation.csv"
    return [
        ["audit", str(copy)],
        ["eval", str(copy), f"validation={data}"],
        ["export", str(copy), "--to", f"{output}-compact", "--compact"],
        ["plan", str(made.recipe), f"model.path={copy}"],
    ]


def _of_compact(_: Material, copy: Path, output: Path) -> list[Step]:
    return [["audit", str(copy)], ["export", str(copy), "--to", f"{output}-model", "--expand"]]


def _of_store(_: Material, copy: Path, output: Path) -> list[Step]:
    def read_unverified() -> None:
        store = open_store(copy, verify=False)
        store.missing(store.fingerprints)

    return [["audit", str(copy)], ["calibrate", str(copy)], read_unverified]


Steps = Callable[[Material, Path, Path], Sequence[Step]]


def _target(
    sources: Callable[[Material], Sequence[Path]], steps: Steps, slow: Steps | None = None
) -> Callable[[Path], FileTarget]:
    def make(folder: Path) -> FileTarget:
        shared = material(folder.parent / "material")
        rare = slow and functools.partial(slow, shared)
        return FileTarget(sources(shared), functools.partial(steps, shared), rare)

    return make


FILE_TARGETS: dict[str, Callable[[Path], FileTarget]] = {
    "run": _target(lambda made: [made.run], _of_run, _reports),
    "checkpoint": _target(lambda made: made.stopped, _of_stopped, _trainings),
    "model": _target(lambda made: [made.run / "model"], _of_model),
    "compact": _target(lambda made: [made.compact], _of_compact),
    "store": _target(lambda made: made.stores, _of_store),
}
"""Makes each target, given a folder for it; they share the folder `material` next to it."""


def resume(path: Path, run: Path, checkpoint: Path | None) -> None:
    """Load the newest good checkpoint into the engine of a recipe.

    Raises:
        UserError: no checkpoint is good.
    """
    recipe = load_recipe(str(path), [f"name={run.name}", f"output={run.parent}"])
    start = find_start_point(recipe, run_folder(recipe, checkpoint), checkpoint)
    engine = _engine(path)
    model, meter = Path(recipe.model.path if recipe.model else ""), Meter(engine.device)
    restore(engine, meter, start, model, None, Console())
    engine.sparsity()


@functools.cache
def _engine(path: Path) -> PruningEngine:
    recipe, ranks = load_recipe(str(path)), find_ranks()
    prepared = preflight(recipe, ranks)
    join_ranks(ranks, recipe.timeout)
    return assemble(recipe, prepared, Console()).engine

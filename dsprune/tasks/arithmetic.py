"""The arithmetic tasks by name: the user's own word problems, and those of SMC-Bench."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.equation_graphs import EquationGraphs
from dsprune.tasks.equation_trees import EquationTrees
from dsprune.tasks.equations import EquationGeneration
from dsprune.tasks.source import Benchmark, Part
from dsprune.tasks.task import Task

__all__ = ["EQUATIONS"]

DECODERS: Mapping[str, type[EquationGeneration]] = {
    "transformer": EquationGeneration,
    "gts": EquationTrees,
    "graph2tree": EquationGraphs,
}
"""The task of each `task.decoder`."""


def equation_task(settings: TaskSettings, benchmark: Benchmark | None = None) -> Task:
    """Return the task with the decoder in the settings."""
    return DECODERS[settings.decoder](settings, benchmark=benchmark)


def _benchmark(title: str, licence: str, folder: str, sizes: tuple[int, int]) -> Benchmark:
    return Benchmark(
        title=title,
        source="https://github.com/arkilpatel/SVAMP, folder data (also in VITA-Group/SMC-Bench)",
        licence=licence,
        parts={
            "train": Part(f"{folder}/train.csv", sizes[0]),
            "validation": Part(f"{folder}/dev.csv", sizes[1]),
        },
        note="The hub does not have it with these columns: give the folder.",
    )


def _folds(
    name: str, title: str, licence: str, sizes: Sequence[tuple[int, int]], settings: TaskSettings
) -> Task:
    folder = f"{name}/fold{settings.fold}"
    title = f"{title}, fold {settings.fold} of {len(sizes)}"
    benchmark = _benchmark(title, licence, folder, sizes[settings.fold])
    return equation_task(settings, benchmark)


def _svamp(settings: TaskSettings) -> Task:
    benchmark = _benchmark(
        "SVAMP, trained on MAWPS and ASDiv-A",
        "SVAMP: MIT; its training file holds ASDiv-A, CC BY-NC 4.0, and MAWPS, which states no licence",
        "mawps-asdiv-a_svamp",
        (3_138, 1_000),
    )
    return equation_task(settings, benchmark)


EQUATIONS: Mapping[str, Callable[[TaskSettings], Task]] = {
    "equation-generation": equation_task,
    "mawps": partial(_folds, "cv_mawps", "MAWPS", "none stated", 5 * [(1_537, 384)]),
    "asdiv-a": partial(
        _folds, "cv_asdiv-a", "ASDiv-A", "CC BY-NC 4.0", [*3 * [(979, 238)], (980, 237), (951, 266)]
    ),
    "svamp": _svamp,
}

"""The cost of distillation on the demo's model: the time that a store adds to a step, and the speed of a capture."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from bench.figures import Row
from bench.tools import milliseconds
from dsprune.distillation.capture.forward import Execution, Source, TeacherModel
from dsprune.distillation.capture.shards import shard_batches, write_shards
from dsprune.distillation.objective import DistillationObjective
from dsprune.distillation.store import Output, StorePlan, StoreSpec, begin_store, plan_store
from dsprune.distillation.store.format import Kind
from dsprune.distillation.teachers import MicroBatch, OnlineTeacher
from dsprune.model.pretrained import load_tokenizer
from dsprune.ranks.ranks import Ranks
from dsprune.recipe import Recipe, load_recipe
from dsprune.tasks.build import build_task
from dsprune.train.preflight import preflight
from dsprune.train.setup import Parts, assemble

__all__ = ["captures", "demo_recipe", "training_steps"]

ALONE = Ranks(0, 0, 1)
WARM_UP = 2  # steps
NUM_EXAMPLES = 2048  # two shards of a store


def demo_recipe(folder: Path) -> Recipe:
    """Return the demo's recipe, with a teacher that has a new head, and its store in `folder`."""
    teacher = folder / "teacher"
    settings = (
        "pruning=null",
        "budget={steps: 100000, batch: 32}",
        "model.path=data/minilm",
        f"task.max_train={NUM_EXAMPLES}",
    )
    store = (f"distillation.teacher={teacher}", f"distillation.store={folder / 'store'}")
    recipe = load_recipe("sentiment-90", [*settings, *store])
    assert recipe.task is not None
    if not teacher.exists():
        task, tokenizer = build_task(recipe.task), load_tokenizer("data/minilm")
        torch.manual_seed(0)
        task.build_model("data/minilm", tokenizer).save_pretrained(teacher)
        tokenizer.save_pretrained(teacher)
    return recipe


# ---- training


def training_steps(folder: Path, steps: int) -> tuple[list[Row], float]:
    """Compare a step from the store with one on labels only and one with an online teacher.

    The three train the same engine alternately, on the same examples.

    Returns:
        The rows of the table, and the seconds of a step from the store.
    """
    recipe = demo_recipe(folder)
    parts = assemble(recipe, preflight(recipe, ALONE), Console(quiet=True))
    assert parts.objective is not None
    with_teacher = online(parts)
    variants = {"labels": replace(with_teacher, objective=None), "store": parts, "online": with_teacher}
    parts.engine.train()
    batches = {name: variant.micro_batches() for name, variant in variants.items()}
    times = [
        {name: step(variant, batches[name]) for name, variant in variants.items()}
        for _ in range(WARM_UP + steps)
    ]
    times = times[WARM_UP:]
    more = median(one["store"] / one["labels"] for one in times) - 1
    gain = median(one["online"] / one["store"] for one in times)
    seconds = {name: median(one[name] for one in times) for name in variants}
    rows = [
        Row(f"step from {name}", f"{1000 * seconds[name]:,.0f} ms") for name in ("labels", "store", "online")
    ]
    rows += [
        Row("the store compared with labels alone", f"{more:+.1%}", "2 % more at most", more <= 0.02),
        Row("the online teacher compared with the store", f"{gain:.2f} x as long"),
        Row("of a step from the store: reading and collating", f"{1000 * reading(parts, steps):.1f} ms"),
    ]
    return rows, seconds["store"]


def online(parts: Parts) -> Parts:
    """Return the same parts with the teacher in memory."""
    objective = parts.objective
    assert objective is not None
    model = parts.prepared.task.build_model(
        objective.settings.teacher, parts.prepared.tokenizer, new_head=False
    )
    teacher = OnlineTeacher(model.eval().requires_grad_(False), parts.prepared.task, parts.collate)
    data = parts.data.remove_columns("fingerprint")
    return replace(
        parts,
        data=data,
        objective=DistillationObjective(
            teacher, parts.prepared.task, objective.settings, objective.timetable
        ),
    )


def step(parts: Parts, batches: Iterator[MicroBatch]) -> float:
    """Return the seconds of a step, from the data to the weights."""
    started = time.perf_counter()
    parts.engine.backward(parts.losses(next(batches).to(parts.engine.device))["loss"])
    parts.engine.step()
    return time.perf_counter() - started


def reading(parts: Parts, batches: int) -> float:
    """Return the median seconds to read and collate a micro-batch."""
    loader, times = parts.micro_batches(), []
    for _ in range(10 * batches):
        started = time.perf_counter()
        next(loader)
        times.append(time.perf_counter() - started)
    return median(times)


# ---- capturing


def captures(folder: Path, repeats: int) -> list[Row]:
    """Compare the examples per second of a capture with those of only its forward passes."""
    recipe = demo_recipe(folder)
    assert recipe.task is not None
    assert recipe.distillation is not None
    task = build_task(recipe.task)
    tokenizer = load_tokenizer("data/minilm")
    data = task.prepare("train", tokenizer)
    source = Source.of(recipe.distillation.teacher, task, tokenizer, data)
    execution = Execution(torch.device("cpu"))
    teacher = TeacherModel(source, execution)
    return [
        capture_of(kind, width, folder, repeats, source, teacher, execution)
        for kind, width in (("full", None), ("hidden", 384))
    ]


def capture_of(
    kind: Kind,
    width: int | None,
    folder: Path,
    repeats: int,
    source: Source,
    teacher: TeacherModel,
    execution: Execution,
) -> Row:
    """Compare capturing a store of one kind with only the forward passes."""
    spec = StoreSpec(kind=kind, outputs={"logits": Output(classes=2, hidden=width)})
    plan = plan_store(spec, source.origin, source.samples)
    lengths, shards = np.asarray(source.data["length"][:]), range(plan.num_shards)
    bare = partial(forward_only, plan, teacher, lengths, execution)
    ratios, rates = [], []
    for number in range(repeats):
        target = folder / f"capture-{kind}-{number}"
        begin_store(target, plan)
        kept = partial(
            write_shards, target, plan, shards, teacher, lengths, execution, Progress(disable=True)
        )
        without, taken = milliseconds(bare), milliseconds(kept)
        ratios.append(without / taken)
        rates.append(1000 * plan.num_records / taken)
    figure = f"{median(ratios):.1%} ({median(rates):,.0f} examples a second)"
    goal = {"goal": "95 % at least", "met": median(ratios) >= 0.95}
    return Row(f"capture of kind {kind} compared with inference alone", figure, **goal)


def forward_only(plan: StorePlan, teacher: TeacherModel, lengths: np.ndarray, execution: Execution) -> None:
    """Do the forward passes of a capture."""
    for shard in range(plan.num_shards):
        samples = plan.samples[plan.records(shard)]
        for records in shard_batches(lengths[samples], execution.batch_size):
            teacher.rows(samples[records], hidden=plan.spec.kind == "hidden")

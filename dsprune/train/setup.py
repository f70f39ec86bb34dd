"""The parts of a training run, assembled before its first step."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dsprune.distillation.capture.build_store import build_store, describe_records
from dsprune.distillation.capture.forward import Execution
from dsprune.distillation.matching import open_matching_store
from dsprune.distillation.objective import LOSSES, DistillationObjective
from dsprune.distillation.teachers import MicroBatch, OnlineTeacher, StoredTeacher, Teacher, with_fingerprints
from dsprune.engine.engine import PruningEngine
from dsprune.engine.initialize import initialize_with
from dsprune.model.fit import set_dropout
from dsprune.ranks.agreement import check_same, on_first_rank
from dsprune.ranks.batch_order import TrainSampler
from dsprune.ranks.group import current_ranks, select_device
from dsprune.recipe import Distillation, Recipe
from dsprune.tasks.examples import Collate, Features, column_of, data_digest
from dsprune.train.prefetch import prefetched
from dsprune.train.preflight import Prepared, start_model
from dsprune.utils.console import say, waiting
from dsprune.utils.randomness import seed_everything
from dsprune.zero.launch import describe_loading

__all__ = ["Parts", "assemble"]


@dataclass(frozen=True)
class Parts:
    """The parts of a training run.

    Attributes:
        prepared: task, tokenizer, validation examples and the order of the training examples.
        data: encoded training examples, with the columns that the teacher needs.
        collate: makes batches.
        digests: of the examples, by split.
        engine: the pruning engine.
        objective: the distillation objective; None without distillation.
    """

    prepared: Prepared
    data: Dataset
    collate: Collate
    digests: dict[str, str]
    engine: PruningEngine
    objective: DistillationObjective | None

    def micro_batches(self) -> Iterator[MicroBatch]:
        """Return this rank's endless micro-batches, starting at the engine's position in the data.

        A step that is skipped on overflow uses up its examples.
        """
        start, lengths = self.engine.global_steps, column_of(self.data, "length")
        sampler = TrainSampler(
            self.prepared.plan, lengths, current_ranks().rank, start=start, stop=sys.maxsize
        )
        collate = self.objective.teacher.collate if self.objective else self._collate
        # Without a generator the loader would draw a seed from torch's global one, which dropout uses.
        generator = torch.Generator()
        on_cpu = self.engine.device.type == "cpu"
        loader = DataLoader(
            self.data, batch_sampler=sampler, collate_fn=collate, generator=generator, pin_memory=not on_cpu
        )
        # On a CPU the thread would compete with the step.
        return iter(loader) if on_cpu else prefetched(iter(loader))

    @property
    def loss_names(self) -> tuple[str, ...]:
        """The keys of `losses`."""
        return ("loss",) if self.objective is None else LOSSES

    def losses(self, micro_batch: MicroBatch) -> dict[str, Tensor]:
        """Run the forward pass, and return the `loss` to minimize; with distillation, also its parts."""
        outputs = self.engine(**micro_batch.batch)
        if self.objective is None:
            return {"loss": outputs.loss}
        return self.objective.losses(outputs, micro_batch, self.engine.applied_steps)

    def _collate(self, features: list[Features]) -> MicroBatch:
        return MicroBatch(self.collate(features))


def assemble(recipe: Recipe, prepared: Prepared, console: Console) -> Parts:
    """Build teacher, model and engine. Collective: every rank must call this.

    Raises:
        UserError: ranks have other data, or the weights of model or teacher cannot be read.
    """
    assert recipe.model is not None, "refused by preflight"
    task, tokenizer, data = prepared.task, prepared.tokenizer, prepared.data
    ranks = current_ranks()
    collate = task.collate(tokenizer, pad_to_multiple_of=None if recipe.precision == "fp32" else 8)
    with waiting(console, "comparing the data of the ranks"):
        digests = {"train": data_digest(data), "validation": data_digest(prepared.validation)}
        compared = {f"the data of task.{split}": digest for split, digest in digests.items()}
        check_same({"the ds_config": json.dumps(prepared.config, sort_keys=True), **compared})
    if ranks.is_first:
        for line in filter(None, (task.targets(data), *prepared.remarks())):
            say(console, line)
    teacher = None
    if recipe.distillation is not None:
        teacher, data = _open_teacher(recipe.distillation, prepared, collate, console)
    # Each rank has its own dropout. New weights differ too, until DeepSpeed broadcasts those of rank 0.
    seed_everything(recipe.seed + ranks.rank)
    with waiting(console, describe_loading(recipe.model.path, prepared.config)):
        model = start_model(task, recipe.model, tokenizer)
        if prepared.vocabulary is not None:
            prepared.vocabulary.shorten(model, keep_others=ranks.is_first)  # which writes the model
        set_dropout(model, recipe.dropout)
        engine, *_ = initialize_with(
            recipe, prepared.plan.steps_per_epoch, model=model, config=prepared.config
        )
    objective = None
    if recipe.distillation is not None and teacher is not None:
        objective = DistillationObjective(teacher, task, recipe.distillation, engine.timetable)
    return Parts(prepared, data, collate, digests, engine, objective)


def _open_teacher(
    settings: Distillation, prepared: Prepared, collate: Collate, console: Console
) -> tuple[Teacher, Dataset]:
    """Return the teacher, and the training examples with the columns that it needs.

    A missing store is computed first. Collective: every rank must call this.
    """
    device = select_device(current_ranks())
    if prepared.source is None:
        with waiting(console, f"loading the teacher {settings.teacher}"):
            model: nn.Module = prepared.task.build_model(settings.teacher, prepared.tokenizer, new_head=False)
        model.eval().requires_grad_(False)
        return OnlineTeacher(model.to(device=device), prepared.task, collate), prepared.data
    folder = Path(str(settings.store))
    source = prepared.source.with_teacher_fingerprint()  # the first rank's, for all to act alike
    if on_first_rank(lambda: not settings.has_store):
        build_store(folder, settings, source, Execution(device), console)
    store = open_matching_store(folder, settings, source, device)
    if current_ranks().is_first:
        manifest, spec = store.manifest, store.manifest.spec
        records = describe_records(
            manifest.num_records, len(source.samples), is_all=manifest.origin.get("dataset") == source.dataset
        )
        say(console, f"teacher: {folder}: {records}, kind {spec.kind} {spec.dtype}")
    return StoredTeacher(store, collate), with_fingerprints(source)

"""Functions for the ranks in the tests of `dsprune.pruning`: DeepSpeed loops without dsprune."""

import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import deepspeed
import torch.distributed as dist
from accelerate import Accelerator, DeepSpeedPlugin, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils.deepspeed import DeepSpeedEngineWrapper, DeepSpeedOptimizerWrapper, DummyOptim
from torch.optim.lr_scheduler import LambdaLR
from transformers import BertForSequenceClassification, Trainer, TrainerState, TrainingArguments

import dsprune
from dsprune.engine.accelerate import check_processes
from dsprune.engine.trainer import TrainerCallback
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Recipe
from dsprune.testing.engines import BATCH, STEPS, ds_config, make_recipe
from dsprune.testing.tiny import TinyModel, batch, tiny_bert
from tests.engine.initializing import initialized
from tests.engine.scenarios import train_step

CONFIG: dict[str, Any] = {
    "train_batch_size": BATCH,
    "gradient_clipping": 0.1,
    "optimizer": {"type": "AdamW", "params": {"torch_adam": True, "lr": 0.02}},
    "zero_optimization": {"stage": 2},
}


def said(act: Callable[[], None]) -> str:
    """The output of a function, and the message of dsprune's error that ends it."""
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        try:
            act()
        except (dsprune.UserError, dsprune.RunFailedError) as error:
            output.write(str(error))
    return output.getvalue()


def train_unaware(recipe: Recipe, steps: int, initialize: Callable[..., Any] | None = None) -> None:
    """Run a loop of plain DeepSpeed inside `dsprune.pruning`; None looks up `deepspeed.initialize` there."""
    os.environ.update(LOCAL_RANK=str(dist.get_rank()))
    model = TinyModel()
    with dsprune.pruning(recipe):
        engine, *_ = (initialize or deepspeed.initialize)(
            model=model, model_parameters=model.parameters(), config=CONFIG, dist_init_required=not initialize
        )
        try:
            for step in range(steps):
                train_step(engine, step)
        finally:
            engine.destroy()


def said_after(comm: Comm, steps: int) -> str:
    """The messages of `pruning` for a loop of some steps; the recipe has 8, and its last mask update at 6."""
    return said(lambda: train_unaware(make_recipe(), steps))


def engines_beside_a_reference_model(comm: Comm, optimizer: dict[str, Any]) -> tuple[int, str]:
    """The number of pruning engines next to a frozen model with an optimizer, and the class of its engine."""
    os.environ.update(LOCAL_RANK=str(dist.get_rank()))
    model = TinyModel()
    with suppress(dsprune.RunFailedError), dsprune.pruning(make_recipe()) as engines:
        frozen = TinyModel().requires_grad_(False)
        reference, *_ = deepspeed.initialize(
            model=frozen, config=CONFIG | {"zero_optimization": {"stage": 0}} | optimizer
        )
        engine, *_ = deepspeed.initialize(model=model, config=CONFIG, model_parameters=model.parameters())
        train_step(engine, 0)
    found = len(engines), type(reference).__name__
    for each in (engine, reference):
        each.destroy()
    return found


def messages_of_a_later_scheduler(comm: Comm) -> str:
    """The messages for a loop that makes a scheduler after its engine, and steps it."""

    def train() -> None:
        with initialized() as (engine, _):
            scheduler = LambdaLR(engine.basic_optimizer, lambda step: 0.5**step)
            for step in range(2):
                train_step(engine, step)
                scheduler.step()
            assert scheduler.get_last_lr() == [group["lr"] for group in engine.basic_optimizer.param_groups]

    return said(train)


def messages_of_an_import(comm: Comm) -> str:
    """The messages of `pruning` for a loop whose engine is made by a function that was imported before."""
    return said(lambda: train_unaware(make_recipe(), 1, deepspeed.initialize))


def messages_of_a_model(comm: Comm, folder: str, steps: int) -> str:
    """The messages when a model is saved after some steps."""

    def train_and_save() -> None:
        with initialized() as (engine, _):
            for step in range(steps):
                train_step(engine, step)
            engine.save_model(folder)

    return said(train_and_save)


def said_by_the_trainer(comm: Comm, stage: int, gathers: bool) -> str:
    """The messages of transformers' Trainer at the start of a training."""
    config = ds_config(stage)
    config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = gathers

    def begin() -> None:
        with initialized(config=config) as (engine, _):
            TrainerCallback(engine).on_train_begin(
                TrainingArguments(use_cpu=True), TrainerState(max_steps=STEPS), None
            )

    return said(begin)


def said_of_the_optimizer_of_the_trainer(comm: Comm, asked: Mapping[str, Any]) -> str:
    """The messages of transformers' Trainer at the start of a training whose ds_config has AdamW."""
    arguments = TrainingArguments(**asked, use_cpu=True, report_to=[])

    def begin() -> None:
        with initialized() as (engine, _):
            TrainerCallback(engine).on_train_begin(arguments, TrainerState(max_steps=STEPS), None)

    return said(begin)


def messages_of_a_second_training(comm: Comm) -> str:
    """The messages of transformers' Trainer if its engine has trained before."""

    def begin_again() -> None:
        with initialized() as (engine, _):
            train_step(engine, 0)
            TrainerCallback(engine).on_train_begin(
                TrainingArguments(use_cpu=True), TrainerState(max_steps=STEPS), None
            )

    return said(begin_again)


def messages_of_steps_of_the_trainer(comm: Comm, steps: int) -> str:
    """The messages of transformers' Trainer if its first step ends after some steps of its engine."""

    def end() -> None:
        with initialized() as (engine, _):
            for step in range(steps):
                train_step(engine, step)
            TrainerCallback(engine).on_step_end(None, TrainerState(max_steps=STEPS, global_step=1), None)

    return said(end)


def saved_after_the_context(comm: Comm, folder: str) -> list[str]:
    """The files of a model that transformers' Trainer saves after the context in which it has trained."""
    with trained(folder, {}) as trainer:
        trainer.save_model()
        return [path.name for path in Path(folder).iterdir()]


def said_of_the_loss_of_the_trainer(
    comm: Comm, folder: str, settings: dict[str, Any], attributes: dict[str, Any]
) -> tuple[str, float]:
    """What is printed if transformers' Trainer trains a BERT, and the loss that it logs first."""
    losses: list[float] = []

    def train() -> None:
        with trained(folder, settings, attributes) as trainer:
            losses.append(trainer.state.log_history[0]["loss"])

    return said(train), losses[0]


@contextmanager
def trained(
    folder: str, settings: dict[str, Any], attributes: dict[str, Any] | None = None
) -> Iterator[Trainer]:
    """Give a Trainer that has pruned a BERT on one rank."""
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    model = BertForSequenceClassification.from_pretrained(tiny_bert(Path(folder, "start")))
    for name, value in (attributes or {}).items():
        setattr(model, name, value)
    data = [{"input_ids": [2, 5, 9 + example, 3], "labels": example % 2} for example in range(BATCH)]
    arguments: dict[str, Any] = {
        "deepspeed": CONFIG,
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 0.02,
        "max_grad_norm": 0.1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    }
    with dsprune.pruning(make_recipe()) as engines:
        trainer = Trainer(model, TrainingArguments(folder, **(arguments | settings)), train_dataset=data)
        trainer.train()
    yield trainer
    engines[0].destroy()
    AcceleratorState._reset_state(reset_partial_state=True)


def messages_of_backwards_of_accelerate(comm: Comm, backwards: int) -> str:
    """The messages for an Accelerate loop that calls `backward` several times before `optimizer.step`."""

    def train() -> None:
        rank, world_size = dist.get_rank(), dist.get_world_size()
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
        model = TinyModel()
        with dsprune.pruning(make_recipe()):
            Accelerator()
            engine, optimizer, *_ = deepspeed.initialize(
                model=model, model_parameters=model.parameters(), config=CONFIG
            )
            try:
                for step in range(STEPS):
                    for _ in range(backwards):
                        loss = engine(**batch(step, BATCH, rank, world_size)).loss
                        DeepSpeedEngineWrapper(engine).backward(loss)
                    DeepSpeedOptimizerWrapper(optimizer).step()
            finally:
                engine.destroy()
                AcceleratorState._reset_state(reset_partial_state=True)

    return said(train)


def messages_of_clipping_of_accelerate(comm: Comm, max_norm: float) -> str:
    """The messages for an Accelerate loop that clips, where its engine clips at 0.1."""

    def train() -> None:
        rank, world_size = dist.get_rank(), dist.get_world_size()
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
        with suppress(dsprune.RunFailedError), dsprune.pruning(make_recipe()):
            plugin = DeepSpeedPlugin(
                hf_ds_config=CONFIG | {"train_micro_batch_size_per_gpu": BATCH // world_size}
            )
            accelerator, model = Accelerator(deepspeed_plugin=plugin), TinyModel()
            engine, _ = accelerator.prepare(model, DummyOptim(model.parameters()))
            try:
                accelerator.backward(engine(**batch(0, BATCH, rank, world_size)).loss)
                assert accelerator.clip_grad_norm_(model.parameters(), max_norm) > 0
            finally:
                engine.destroy()
                AcceleratorState._reset_state(reset_partial_state=True)

    return said(train)


def messages_of_accumulation(comm: Comm, micro_batch: int) -> str:
    def initialize() -> None:
        with initialized(config=ds_config(1, train_micro_batch_size_per_gpu=micro_batch)):
            pass

    return said(initialize)


def processes_of_accelerate(comm: Comm) -> tuple[int, int, str]:
    """The processes that Accelerate counts on CPUs, without and with dsprune, and the messages of the former."""
    os.environ.update(
        RANK=str(dist.get_rank()), LOCAL_RANK=str(dist.get_rank()), WORLD_SIZE=str(dist.get_world_size())
    )
    alone = PartialState().num_processes
    message = said(check_processes)
    PartialState._reset_state()
    with suppress(dsprune.UserError), dsprune.pruning(make_recipe()):  # which has no engine to prune with
        found = PartialState().num_processes
    check_processes()
    PartialState._reset_state()
    return alone, found, message

"""Functions for the ranks in the tests of `initialize`: its arguments, and checkpoints of other programs."""

import copy
import gc
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import safe_set_full_fp32_param
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import BertConfig, BertForSequenceClassification

import dsprune
from dsprune.model.patterns import parameter_groups
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Distillation, Recipe
from dsprune.testing.compiler import compiler
from dsprune.testing.engines import BATCH, STEPS, ds_config, make_recipe, pruning_engine
from dsprune.testing.tiny import TinyModel, batch
from dsprune.zero.parameters import full_shape
from tests.engine.scenarios import every_view, pruner_of, train_step

EXAMPLES = 26
"""Two batches, and two more examples."""


class Examples(Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[0] for name, value in batch(index, 1, 0, 1).items()}


class Stream(IterableDataset[dict[str, torch.Tensor]]):
    """A stream with one more example than the ranks can share."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return (Examples()[index] for index in range(EXAMPLES + 1))


class CountedStream(IterableDataset[dict[str, torch.Tensor]]):
    """A stream of two batches and one more example, which knows its length."""

    def __len__(self) -> int:
        return 2 * BATCH + 1

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return (Examples()[index] for index in range(len(self)))


class Wrapped(torch.nn.Module):
    """A module wrapped like by `torch.compile`; the compiler itself is off in tests."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self._orig_mod = module

    def forward(self, **inputs: torch.Tensor) -> Any:
        return self._orig_mod(**inputs)


def hub_dataset() -> datasets.Dataset:
    rows = [{name: value.tolist() for name, value in Examples()[i].items()} for i in range(EXAMPLES)]
    return datasets.Dataset.from_list(rows)


DATA: dict[str, Callable[[], Any]] = {
    "a dataset": Examples,
    "a stream": Stream,
    "a Hugging Face dataset": hub_dataset,
    "a Hugging Face stream": lambda: hub_dataset().to_iterable_dataset(),
}


@contextmanager
def initialized(**kwargs: Any) -> Iterator[tuple[dsprune.PruningEngine, Any]]:
    """Engine and loader of `dsprune.initialize`."""
    os.environ.update(LOCAL_RANK=str(dist.get_rank()))
    arguments = {"model": TinyModel(), "config": ds_config(2), "recipe": make_recipe()} | kwargs
    engine, _, loader, _ = dsprune.initialize(**arguments)
    try:
        yield engine, loader
    finally:
        engine.destroy()
        del engine
        gc.collect()


def train_on(comm: Comm, what: str) -> tuple[float, int]:
    """Train on some data to the end, and return sparsity and number of steps."""
    with initialized(training_data=DATA[what]()) as (engine, loader):
        loader.num_local_io_workers = 0  # DeepSpeed would start two processes per pass
        while engine.applied_steps < STEPS:
            for inputs in islice(loader, STEPS - engine.applied_steps):
                engine.backward(engine(**inputs).loss)
                engine.step()
        return engine.sparsity()["sparsity_prunable"], engine.applied_steps


def train_compiled(comm: Comm, stage: int, what: str) -> list[Tensor]:
    """Train with a compiled model, wrapper or engine, and return the master weights."""
    model = TinyModel()
    with nullcontext() if what == "nothing" else compiler():
        given = torch.compile(model, backend="eager") if what == "wrapper" else model
        if what == "model":
            model.compile(backend="eager")
        with initialized(model=given, config=ds_config(stage)) as (engine, _):
            if what == "engine":
                engine.compile(backend="eager")
            for step in range(STEPS):
                train_step(engine, step)
            return every_view(pruner_of(engine))["weight"]


def first_pass_of_a_stream(comm: Comm, drop_last: bool) -> list[list[int]]:
    """The tokens of this rank's examples in one pass over a stream."""
    config = ds_config(2, dataloader_drop_last=drop_last)
    with initialized(training_data=Stream(), config=config) as (_, loader):
        return [tokens.tolist() for inputs in loader for tokens in inputs["tokens"]]


def steps_of_a_counted_stream(comm: Comm) -> tuple[int, int]:
    """The steps of an epoch, as the timetable counts them and as one pass over the stream takes."""
    with initialized(training_data=CountedStream(), recipe=in_epochs()) as (engine, loader):
        taken = len(list(loader)) // engine.gradient_accumulation_steps()
        return engine.timetable.steps_per_epoch, taken


def in_epochs() -> Recipe:
    """The recipe, with its budget in epochs."""
    recipe = make_recipe(start=1)
    return recipe.model_copy(
        update={"budget": recipe.budget.model_copy(update={"steps": None, "epochs": 4.0})}
    )


def stage_of(comm: Comm, folder: str, how: str) -> int:
    """The ZeRO stage of the engine whose ds_config of stage 1 is passed in one of DeepSpeed's ways."""
    path = Path(folder, "ds_config.json")
    given: dict[str, Any] = {
        "args.deepspeed_config": {"args": SimpleNamespace(deepspeed_config=str(path)), "config": None},
        "config_params": {"config_params": ds_config(1), "config": None},
        "path": {"config": path},
        "name of a path": {"config": str(path)},
    }[how]
    with initialized(**given) as (engine, _):
        return int(engine.zero_optimization_stage())


def client_optimizer(rate: float, **settings: Any) -> dict[str, Any]:
    model = TinyModel()
    return {"model": model, "optimizer": torch.optim.AdamW(model.parameters(), lr=rate, **settings)}


def some_parameters(stage: int) -> dict[str, Any]:
    """A model, and all its parameters except those of a block, for DeepSpeed."""
    model = TinyModel()
    given = [value for name, value in model.named_parameters() if not name.startswith("blocks.1")]
    return {"model": model, "model_parameters": given, "config": ds_config(stage)}


def two_models() -> dict[str, Any]:
    """A model, and an optimizer of its parameters and of another model's."""
    model = TinyModel()
    optimizer = torch.optim.AdamW([*model.parameters(), *TinyModel(1).parameters()], lr=0.02)
    return {"model": model, "optimizer": optimizer, "config": without_optimizer(0)}


def without_optimizer(stage: int) -> dict[str, Any]:
    return {key: value for key, value in ds_config(stage).items() if key != "optimizer"}


def with_a_head_in_fp64() -> TinyModel:
    model = TinyModel()
    model.head.double()
    return model


def with_sections(**sections: Any) -> Recipe:
    """The recipe with sections that a script may forget."""
    return Recipe.model_validate(make_recipe().model_dump(exclude_unset=True) | sections)


def refused() -> dict[str, Callable[[], dict[str, Any]]]:
    """Arguments that `initialize` refuses, by name."""
    sparse = {"sparse_pruning": {"different_groups": {"a": {"params": {"dense_ratio": 0.25}}}}}
    adapted = TinyModel()
    adapted.blocks[0].up.base_layer = torch.nn.Linear(2, 2)
    compiled = TinyModel()
    compiled.blocks[1] = Wrapped(compiled.blocks[1])
    return {
        "a loader": lambda: {"training_data": DataLoader(Examples())},
        "a generator": lambda: {"training_data": iter(Stream())},
        "a file name": lambda: {"training_data": "train.csv"},
        "a scheduler": lambda: {"lr_scheduler": torch.optim.lr_scheduler.ConstantLR},
        "another rate": lambda: client_optimizer(1e-3),
        "a dense rate": lambda: (
            client_optimizer(1e-3) | {"recipe": with_sections(learning_rate={"dense": 1e-3})}
        ),
        "a stream in epochs": lambda: {"training_data": Stream(), "recipe": in_epochs()},
        "a mesh": lambda: {"mesh_param": (1, 2)},
        "two configs": lambda: {"config_params": ds_config(1)},
        "no config": lambda: {"config": None},
        "no model": lambda: {"model": None},
        "a class": lambda: {"model": TinyModel},
        "a list": lambda: {"recipe": ["x"]},
        "no recipe": lambda: {"recipe": None},
        "the name of a function": lambda: {"training_data": Examples(), "collate_fn": "stack"},
        "a text for steps": lambda: {"steps_per_epoch": "4"},
        "no steps in an epoch": lambda: {"steps_per_epoch": 0},
        "compression": lambda: {"config": ds_config(1, compression_training=sparse)},
        "fp32 gradients at stage 0": lambda: {
            "config": ds_config(0, "bf16", data_types={"grad_accum_dtype": "fp32"}),
            "recipe": make_recipe("bf16"),
        },
        "no gradient norm": lambda: {
            "config": ds_config(
                1,
                "bf16",
                data_types={"grad_accum_dtype": "fp32"},
                zero_optimization={"stage": 1, "compute_grad_norm": False},
            ),
            "recipe": make_recipe("bf16"),
        },
        "divided gradients": lambda: {
            "config": ds_config(2, prescale_gradients=True, gradient_predivide_factor=4.0)
        },
        "fewer layers": lambda: {"recipe": with_sections(model={"path": "m", "layers": [0, 1]})},
        "another optimizer": lambda: (
            client_optimizer(0.02)
            | {"recipe": with_sections(optimizer={"type": "SGD"}), "config": without_optimizer(2)}
        ),
        "two models": two_models,
        "some parameters": lambda: some_parameters(0),
        "some parameters at stage 2": lambda: some_parameters(2),
        "some parameters at stage 3": lambda: some_parameters(3),
        "an adapter": lambda: {"model": adapted},
        "parameters in bf16": lambda: {"model": TinyModel().bfloat16()},
        "a wrapped module": lambda: {"model": torch.nn.DataParallel(TinyModel())},
        "a head in fp64": lambda: {"model": with_a_head_in_fp64(), "config": ds_config(2)},
        "a compiled module": lambda: {"model": compiled, "config": ds_config(3)},
    }


def error_of_initialize(comm: Comm, what: str) -> str:
    try:
        with initialized(**refused()[what]()):
            return "no error"
    except dsprune.UserError as error:
        return str(error)


def first_step_with_a_teacher(comm: Comm, used: dict[str, Any] | None) -> str:
    """The error of a loop whose `DistillationLoss` has another section `distillation`; None = it is not called."""
    asked = {"teacher": "t", "hardness": {"first": 0.5, "final": 1.0}}
    with initialized(recipe=with_sections(distillation=asked)) as (engine, _):
        engine.distillation = None if used is None else Distillation(**(asked | used))
        try:
            train_step(engine, 0)
        except dsprune.UserError as error:
            return str(error)
        return "no error"


def error_of_a_universal_checkpoint(comm: Comm, folder: str, flag: bool) -> str:
    """The error of loading a folder of DeepSpeed's `ds_to_universal`."""
    with initialized(config=ds_config(2, checkpoint={"load_universal": flag})) as (engine, _):
        try:
            engine.load_checkpoint(folder, "universal")
        except dsprune.UserError as error:
            return str(error)
        return "no error"


def train_with_a_client_optimizer(comm: Comm) -> float:
    with initialized(**client_optimizer(0.02)) as (engine, _):
        for step in range(STEPS):
            train_step(engine, step)
        return engine.sparsity()["sparsity_prunable"]


def said_without_a_peak(comm: Comm) -> str:
    """The messages of the first two steps if only the optimizer sets a rate."""
    said = io.StringIO()
    recipe = with_sections(learning_rate={})
    given = client_optimizer(0.02) | {"recipe": recipe, "config": without_optimizer(2)}
    with initialized(**given) as (engine, _), redirect_stderr(said):
        for step in range(2):
            train_step(engine, step)
    return said.getvalue()


def save_and_load_with(comm: Comm, folder: str, tag: Any) -> tuple[int, int]:
    """The steps of an engine that loads the tag, and of one that loads the latest."""
    with pruning_engine(ds_config(2), make_recipe()) as engine:
        train_step(engine, 0)
        engine.save_checkpoint(folder, tag)
    steps = []
    for given in (tag, None):
        with pruning_engine(ds_config(2), make_recipe(), seed=1) as engine:
            engine.load_checkpoint(folder, given)
            steps.append(engine.applied_steps)
    return steps[0], steps[1]


def error_of_saving_apart(comm: Comm, folder: str) -> str:
    """The error if each rank saves into its own folder."""
    with pruning_engine(ds_config(2), make_recipe()) as engine:
        try:
            engine.save_checkpoint(f"{folder}/of-{dist.get_rank()}", "tag")
        except dsprune.UserError as error:
            return str(error)
        return "no error"


def saved_with(comm: Comm, folder: str, value: Any) -> Any:
    """A script's entry in a checkpoint after loading, or the error of saving it."""
    with pruning_engine(ds_config(2), make_recipe()) as engine:
        try:
            engine.save_checkpoint(folder, "tag", {"mine": value})
        except dsprune.UserError as error:
            return str(error)
        _, client_state = engine.load_checkpoint(folder, "tag")
        return client_state["mine"]


def copied(comm: Comm) -> tuple[bool, bool]:
    """A shallow copy of an engine, as libraries make to wrap one."""
    with pruning_engine(ds_config(2), make_recipe()) as engine:
        other = copy.copy(engine)
        return isinstance(other, dsprune.PruningEngine), other.module is engine.module


# ---- the optimizer

TRAINED_BY_TORCH = {
    "learning_rate": {"peak": 0.02, "warmup": 0, "decay_every": "2 steps", "scale": {"blocks.*": 0.25}},
    "optimizer": {"type": "Adam", "decoupled": False, "decayed": "all", "weight_decay": 0.5},
    "gradient_clipping": 0.0,
}
"""Adam with L2 of all parameters at two rates, which are halved every two steps."""


def weights_after(comm: Comm, config: dict[str, Any], steps: int) -> list[Tensor]:
    """All weights of a dense run."""
    budget = {"steps": steps, "batch": BATCH}
    recipe = Recipe.model_validate({"name": "test", "budget": budget} | TRAINED_BY_TORCH)
    with pruning_engine(config, recipe) as engine:
        for step in range(steps):
            train_step(engine, step)
        parameters = list(engine.module.parameters())
        with deepspeed.zero.GatheredParameters(parameters):
            return [parameter.detach().clone() for parameter in parameters]


def weights_by_torch(steps: int) -> list[Tensor]:
    """The same by torch alone."""
    model = TinyModel()
    slow, others = list(model.blocks.parameters()), [*model.embed.parameters(), *model.head.parameters()]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": slow, "lr": 0.25 * 0.02}]
    optimizer = torch.optim.Adam(groups, lr=0.02, weight_decay=0.5)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    for step in range(steps):
        optimizer.zero_grad()
        model(**batch(step, BATCH, 0, 1)).loss.backward()
        optimizer.step()
        schedule.step()
    return [parameter.detach() for parameter in model.parameters()]


# ---- checkpoints

PLAIN = {
    "train_batch_size": BATCH,
    "optimizer": {"type": "AdamW", "params": {"torch_adam": True, "lr": 0.5, "weight_decay": 0.3}},
}


def save_plain(comm: Comm, folder: str, stage: int, groups: bool, scheduler: bool) -> None:
    """A checkpoint of plain DeepSpeed after two steps; half of its `up` weights are zero."""
    os.environ.update(LOCAL_RANK=str(dist.get_rank()))
    config = PLAIN | {"zero_optimization": {"stage": stage}}
    if scheduler:
        config["scheduler"] = {"type": "WarmupLR", "params": {}}
    model = TinyModel()
    parameters = parameter_groups(model, 0.5, {}, full_shape) if groups else model.parameters()
    engine, *_ = deepspeed.initialize(model=model, model_parameters=parameters, config=config)
    for step in range(2):
        train_step(engine, step)
    for name, parameter in model.named_parameters():
        if name.endswith("up.weight"):
            halved = parameter.detach().float()
            halved[: len(halved) // 2] = 0
            parameter.data.copy_(halved)
            safe_set_full_fp32_param(parameter, halved)
    engine.save_checkpoint(folder, "plain")
    engine.destroy()


def settings_of(engine: dsprune.PruningEngine) -> list[tuple[float, float]]:
    return [(group["initial_lr"], group["weight_decay"]) for group in engine.basic_optimizer.param_groups]


def load_plain(
    comm: Comm, folder: str, stage: int, masks_from: Any, options: dict[str, Any], end: int = 6
) -> tuple[int, float] | str:
    """First step and last sparsity of a run from a plain checkpoint, with mask updates until `end`; or the error."""
    recipe = make_recipe(first=0.6, end=end, updates=2)
    with pruning_engine(ds_config(stage), recipe, seed=1) as engine:
        settings = settings_of(engine)
        try:
            engine.load_checkpoint(folder, "plain", masks_from=masks_from, **options)
        except dsprune.UserError as error:
            return str(error)
        first = engine.applied_steps
        assert settings_of(engine) == settings, "the recipe's"
        for step in range(first, STEPS):
            train_step(engine, step)
        assert pruner_of(engine).audit() == []
        return first, engine.sparsity()["sparsity_prunable"]


def load_plain_in_a_script(comm: Comm, folder: str, masks_from: Any) -> tuple[int, float]:
    """Step and sparsity after a framework has loaded a plain checkpoint, which it does without `masks_from`."""
    with pruning_engine(ds_config(2), make_recipe(first=0.6, updates=2), seed=1) as engine:
        engine.begin_script(masks_from)
        engine.load_checkpoint(folder, "plain")
        return engine.applied_steps, engine.sparsity()["sparsity_prunable"]


def load_partly(
    comm: Comm, folder: str, stages: tuple[int, int], options: dict[str, Any]
) -> tuple[int, float, list[str]]:
    """Load a part of a checkpoint, return step, sparsity and loaded views, and train to the end."""
    recipe = make_recipe(first=0.8)
    with pruning_engine(ds_config(stages[0]), recipe) as engine:
        for step in range(2):
            train_step(engine, step)
        engine.save_checkpoint(folder)
        expected = every_view(pruner_of(engine))
    with pruning_engine(ds_config(stages[1]), recipe, seed=1) as engine:
        train_step(engine, 0)  # its moments must go
        engine.load_checkpoint(folder, **options)
        first, sparsity = engine.applied_steps, engine.sparsity()["sparsity_prunable"]
        found = every_view(pruner_of(engine))
        same = [what for what in found if all(map(torch.equal, found[what], expected[what]))]
        for step in range(first, STEPS):
            train_step(engine, step)
        assert engine.sparsity()["sparsity_prunable"] == 0.9
        assert pruner_of(engine).audit() == []
        return first, sparsity, sorted(same)


def with_a_frozen_embedding() -> TinyModel:
    model = TinyModel()
    model.embed.requires_grad_(False)
    return model


MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "a plain module": TinyModel,
    "a compiled module": lambda: Wrapped(TinyModel()),
    "a frozen module": with_a_frozen_embedding,
    "a Hugging Face model": lambda: BertForSequenceClassification(
        BertConfig(
            vocab_size=11,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            num_labels=3,
        )
    ),
}


def with_an_extra_layer(seed: int) -> TinyModel:
    model = TinyModel(seed)
    model.extra = torch.nn.Linear(2, 2)
    return model


def error_of_loading_more(comm: Comm, folder: str, options: dict[str, Any]) -> str:
    """The error of loading a checkpoint with a layer that the model does not have, at another stage."""
    with pruning_engine(ds_config(2), make_recipe(), model=with_an_extra_layer) as engine:
        engine.save_checkpoint(folder)
    with pruning_engine(ds_config(3), make_recipe()) as engine:
        try:
            engine.load_checkpoint(folder, **options)
        except dsprune.UserError as error:
            return str(error)
        return "no error"


def save_checkpoint_and_model(
    comm: Comm, folder: str, what: str, stage: int, exclude_frozen_parameters: bool = False
) -> None:
    """A script's checkpoint and model after one step, which prunes half of the weights."""
    with initialized(model=MODELS[what](), config=ds_config(stage)) as (engine, _):
        inputs = batch(0, BATCH, dist.get_rank(), dist.get_world_size())
        if what == "a Hugging Face model":
            inputs["input_ids"] = inputs.pop("tokens")
        engine.backward(engine(**inputs).loss)
        engine.step()
        engine.save_checkpoint(
            f"{folder}/states", "first", exclude_frozen_parameters=exclude_frozen_parameters
        )
        engine.save_model(f"{folder}/model")

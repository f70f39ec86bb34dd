"""`dsprune.initialize`: `deepspeed.initialize` with a recipe."""

import functools
import json
import math
import os
from collections.abc import Sized
from pathlib import Path
from typing import Any

import deepspeed
from deepspeed import DeepSpeedEngine
from deepspeed import initialize as deepspeed_initialize
from torch import nn

from dsprune.checkpoint.sparse_start import MasksFrom
from dsprune.engine.engine import PruningEngine
from dsprune.engine.learning_rate import ScaledLR
from dsprune.engine.script import check_steps_per_epoch, fit_to_recipe
from dsprune.engine.training_data import check_training_data, is_stream, make_loader, with_tensors
from dsprune.errors import UserError
from dsprune.model.patterns import parameter_groups
from dsprune.ranks.group import announce
from dsprune.recipe import AnyRecipe, Recipe, as_recipe
from dsprune.schedule import Timetable, recipe_timetable
from dsprune.utils.text import first_line
from dsprune.zero.config import load_ds_config, resolve_ds_config
from dsprune.zero.keys import setting
from dsprune.zero.launch import init_distributed
from dsprune.zero.limits import check_device
from dsprune.zero.ops import build_failure, import_muon
from dsprune.zero.parameters import check_parameters, check_precision, full_shape, gather_whole

__all__ = ["deepspeed_initialize", "find_config", "initialize", "initialize_script", "initialize_with"]


Initialized = tuple[PruningEngine, Any, Any, Any]


def initialize(
    args: Any = None,
    model: nn.Module | None = None,
    optimizer: Any = None,
    model_parameters: Any = None,
    training_data: Any = None,
    lr_scheduler: Any = None,
    *,
    recipe: AnyRecipe,
    config: dict[str, Any] | str | Path | None = None,
    config_params: dict[str, Any] | str | Path | None = None,
    steps_per_epoch: int | None = None,
    masks_from: MasksFrom | None = None,
    **kwargs: Any,
) -> Initialized:
    """Initialize a DeepSpeed engine that prunes. Collective: every rank must call this.

    Accepts the arguments of `deepspeed.initialize`, and a recipe.

    Args:
        args: as for DeepSpeed; `args.deepspeed_config` names the ds_config if `config` is None.
        model: as for DeepSpeed. Without `model_parameters` and `optimizer`, the recipe's `learning_rate.scale` and
            `optimizer.decayed` divide its parameters into groups.
        optimizer: as for DeepSpeed; its settings must agree with the recipe.
        model_parameters: as for DeepSpeed.
        training_data: a dataset, as for DeepSpeed, or an iterable one. The recipe's epochs are counted on its length.
        lr_scheduler: must be None: the recipe owns the learning rate.
        recipe: a recipe, its values, or the path or name of one.
        config: a ds_config, the path of one, or the name of a shipped one; each "auto" is filled from the recipe.
        config_params: another name of `config`, as for DeepSpeed.
        steps_per_epoch: optimizer steps per epoch, for a recipe in epochs whose data have no length.
        masks_from: what to do with exact zeros of the model: `zeros` makes masks of them, `none` lets them grow back;
            None refuses them at the first step, unless a checkpoint was loaded.
        **kwargs: passed to `deepspeed.initialize`.

    Returns:
        Engine, optimizer, data loader and scheduler, as `deepspeed.initialize` returns them.

    Raises:
        UserError: recipe and ds_config disagree, dsprune does not support a setting, or a stale build lock would make
            DeepSpeed wait forever.
    """
    if not isinstance(model, nn.Module):
        raise UserError(
            f"initialize: model is a {type(model).__name__}: give the module to train, a torch.nn.Module object"
        )
    if getattr(deepspeed.initialize, "prunes", False):
        raise UserError(
            "initialize: called inside dsprune.pruning, or under dsprune run, which have their own recipe: "
            "call deepspeed.initialize there, or leave the other out"
        )
    if lr_scheduler is not None:
        name = getattr(lr_scheduler, "__name__", type(lr_scheduler).__name__)
        raise UserError(
            f"initialize: lr_scheduler={name}: the recipe's learning_rate owns the schedule: leave lr_scheduler out"
        )
    check_steps_per_epoch(steps_per_epoch)
    return initialize_script(
        as_recipe(recipe),
        steps_per_epoch,
        masks_from,
        model=model,
        config=find_config(args, config, config_params),
        optimizer=optimizer,
        model_parameters=model_parameters,
        training_data=training_data,
        **kwargs,
    )


def initialize_script(
    recipe: Recipe,
    steps_per_epoch: int | None,
    masks_from: MasksFrom | None,
    *,
    model: nn.Module,
    **kwargs: Any,
) -> Initialized:
    """Initialize for a script that has made the model: see `initialize_with` and `fit_to_recipe`.

    Collective: every rank must call this.
    """
    if isinstance(model, DeepSpeedEngine):
        raise UserError(
            f"initialize: model is a {type(model).__name__}: give the module, engine.module, or make the engine "
            f"prune with dsprune.PruningEngine(engine, recipe)"
        )
    init_distributed()
    fit_to_recipe(model, recipe)
    initialized = initialize_with(recipe, steps_per_epoch, model=model, **kwargs)
    initialized[0].begin_script(masks_from)
    return initialized


def initialize_with(
    recipe: Recipe,
    steps_per_epoch: int | None,
    *,
    model: nn.Module,
    config: dict[str, Any],
    training_data: Any = None,
    **kwargs: Any,
) -> Initialized:
    """Resolve the config from the recipe, initialize, and make the engine prune. Collective: every rank must call this.

    Args:
        recipe: fills each "auto" of the config.
        steps_per_epoch: optimizer steps per epoch; None counts them on `training_data`.
        model: the module to train.
        config: a ds_config.
        training_data: a dataset, with or without a length.
        **kwargs: passed to `deepspeed.initialize`; no scheduler and no mesh.
    """
    check_training_data(training_data, kwargs.get("collate_fn"))
    if (mesh := kwargs.get("mesh_param")) is not None:
        raise UserError(
            f"initialize: mesh_param={mesh}: sequence parallelism is not supported: leave it out, and train with ZeRO"
        )
    check_parameters(model)
    init_distributed()
    kwargs.pop("dist_init_required", None)  # the group exists, and DeepSpeed finds it
    world_size = deepspeed.comm.get_world_size()
    config = resolve_ds_config(config, recipe, world_size)
    check_device(config)
    mixed = any(setting(config, f"{precision}.enabled") is True for precision in ("bf16", "fp16"))
    # At stages 1 to 3 DeepSpeed gives all parameters of a group one dtype.
    check_precision(model, mixed=mixed)
    _announce_accumulation(config, recipe)
    training_data = with_tensors(training_data, kwargs.get("collate_fn"))
    if steps_per_epoch is None and isinstance(training_data, Sized):
        # A rank gets its share of a stream, and repeats an example of other data so that all have as many.
        shared = math.floor if is_stream(training_data) else math.ceil
        steps_per_epoch = _steps_per_epoch(shared(len(training_data) / world_size), config)
    timetable = recipe_timetable(recipe, steps_per_epoch)
    gather_whole(model)
    if kwargs.get("optimizer") is None and kwargs.get("model_parameters") is None:
        rate = setting(config, "optimizer.params.lr")
        scale, decayed = recipe.learning_rate.scale, recipe.optimizer.decayed
        kwargs["model_parameters"] = parameter_groups(model, rate, scale, full_shape, decayed)
    return _initialize(recipe, timetable, training_data, model=model, config=config, **kwargs)


def _initialize(recipe: Recipe, timetable: Timetable, data: Any, **kwargs: Any) -> Initialized:
    import_muon()
    scheduler = functools.partial(ScaledLR, timetable=timetable)
    try:
        engine, optimizer, loader, scheduler = deepspeed_initialize(
            lr_scheduler=scheduler, training_data=None if is_stream(data) else data, **kwargs
        )
    except Exception as error:  # a build raises errors of many types
        if (failure := build_failure(error)) is not None:
            raise UserError(failure) from error
        if not isinstance(error, AssertionError | ModuleNotFoundError | NotImplementedError | ValueError):
            raise
        raise UserError(
            f"ds_config: DeepSpeed does not start with it: {first_line(error)}: correct the setting"
        ) from error
    if is_stream(data):
        engine.training_dataloader = loader = make_loader(engine, data, kwargs.get("collate_fn"))
    return PruningEngine.attach(engine, recipe, timetable), optimizer, loader, scheduler


def find_config(args: Any, *configs: dict[str, Any] | str | Path | None) -> dict[str, Any]:
    """Return the ds_config from `config`, `config_params` or `args.deepspeed_config`."""
    given = [config for config in (*configs, getattr(args, "deepspeed_config", None)) if config is not None]
    if len(given) != 1:
        raise UserError(
            f"initialize: {len(given)} ds_configs are given: give one of config, config_params and "
            f"args.deepspeed_config"
        )
    [config] = given
    return config if isinstance(config, dict) else load_ds_config(os.fspath(config))


def _announce_accumulation(config: dict[str, Any], recipe: Recipe) -> None:
    """Print once that a step takes several forward passes, unless the recipe sets this."""
    accumulation = config["gradient_accumulation_steps"]
    if accumulation > 1 and recipe.budget.micro_batch is None:
        sizes = {key: config[key] for key in ("train_batch_size", "train_micro_batch_size_per_gpu")}
        announce(
            f"an optimizer step is {accumulation} forward passes a rank ({json.dumps(sizes)}); the recipe counts "
            f"optimizer steps"
        )


def _steps_per_epoch(examples_per_rank: int, config: dict[str, Any]) -> int:
    """Return the complete optimizer steps in one pass of the loader."""
    rounded = math.floor if config.get("dataloader_drop_last") else math.ceil
    micro_batches = rounded(examples_per_rank / config["train_micro_batch_size_per_gpu"])
    return int(micro_batches // config["gradient_accumulation_steps"])

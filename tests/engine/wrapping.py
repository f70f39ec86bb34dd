"""Functions for one rank in the tests of the wrapper: engines that it accepts, and those that it refuses."""

import io
import os
from contextlib import ExitStack, redirect_stderr, suppress
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
import torch.distributed as dist
from deepspeed.utils import groups
from torch.utils.data import TensorDataset

import dsprune
from dsprune.engine.learning_rate import ScaledLR
from dsprune.ranks.collectives import Comm
from dsprune.recipe import LearningRate, Model, Optimizer
from dsprune.testing.engines import BATCH, STEPS, ds_config, make_recipe, pruning_engine, scaled
from dsprune.testing.tiny import TinyModel, batch
from dsprune.testing.whole import whole_masks
from tests.engine.scenarios import pruner_of, train_step

CONFIG: dict[str, Any] = {
    "gradient_clipping": 0.1,
    "train_batch_size": BATCH,
    "optimizer": {"type": "AdamW", "params": {"torch_adam": True, "lr": 0.02}},
    "zero_optimization": {"stage": 2},
}


class _NamedAdamW(torch.optim.AdamW):
    """An AdamW with the `step` of its base."""


class _SteppingAdamW(torch.optim.AdamW):
    """An AdamW with its own `step`."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "an optimizer of its own kind": torch.optim.Rprop,
    "an AdamW that steps as AdamW": _NamedAdamW,
    "an AdamW that steps otherwise": _SteppingAdamW,
}


def deepspeed_engine(config: dict[str, Any] = CONFIG, **kwargs: Any) -> deepspeed.DeepSpeedEngine:
    os.environ.update(LOCAL_RANK=str(dist.get_rank()))
    model = kwargs.pop("model", None) or TinyModel()
    kwargs.setdefault("model_parameters", model.parameters())
    engine, *_ = deepspeed.initialize(model=model, config=config, **kwargs)
    return engine


def error_of_wrapping(comm: Comm, what: str) -> str:
    """The error of `PruningEngine` for an engine that has `what`."""
    config, kwargs, recipe = dict(CONFIG), {}, make_recipe()
    if what == "a scheduler":
        config["scheduler"] = {"type": "WarmupLR", "params": {}}
    if what == "BF16_Optimizer":
        config |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
        config["zero_optimization"] = {"stage": 1}
    if what in OPTIMIZERS:
        config.pop("optimizer")
        config["zero_allow_untested_optimizer"] = True
        model = TinyModel()
        kwargs = {"optimizer": OPTIMIZERS[what](model.parameters(), lr=0.02), "model": model}
    if what == "a setting that is refused":
        config["zero_optimization"] = {"stage": 2, "round_robin_gradients": True}
    if what == "no loader, epochs":
        recipe = recipe.model_copy(
            update={"budget": recipe.budget.model_copy(update={"steps": None, "epochs": 2.0})}
        )
    if what == "a new head":
        recipe = recipe.model_copy(update={"model": Model(path="m", new_head=True)})
    if what == "one learning rate, and factors":
        recipe = scaled(recipe)
    engine = deepspeed_engine(config, **kwargs)
    try:
        dsprune.PruningEngine(engine, recipe)
    except dsprune.UserError as error:
        return str(error)
    finally:
        engine.destroy()
    return "no error"


def error_after_steps(comm: Comm) -> str:
    """The error of `PruningEngine` for an engine that has trained longer than the recipe prunes."""
    engine = deepspeed_engine()
    try:
        for step in range(STEPS):
            train_step(engine, step)
        pruning = dsprune.PruningEngine(engine, make_recipe())
        train_step(pruning, STEPS)
    except dsprune.UserError as error:
        return str(error)
    finally:
        engine.destroy()
    return "no error"


def error_of_a_mesh(comm: Comm, stage: int) -> str:
    """The error of `PruningEngine` for an engine whose two ranks share each sequence."""
    engine = deepspeed_engine(CONFIG | {"zero_optimization": {"stage": stage}}, mesh_param=(1, 2))
    try:
        dsprune.PruningEngine(engine, make_recipe())
    except dsprune.UserError as error:
        return str(error)
    finally:
        engine.destroy()
        groups.mesh_device = None  # which all later engines would have
    return "no error"


def error_without_a_reduction(comm: Comm) -> str:
    """The error of a loop at stage 0 that does not call the engine's `backward`, so each rank trains alone."""
    with pruning_engine(ds_config(0), make_recipe()) as engine:
        try:
            for step in range(STEPS):
                engine(**batch(step, BATCH, comm.rank, comm.size)).loss.backward()
                engine.step()
        except dsprune.RunFailedError as error:
            return str(error)
    return "no error"


def error_of_a_model(comm: Comm, what: str) -> str:
    """The error for an object that is not an engine or a module."""
    engine = deepspeed_engine()
    try:
        if what == "an engine as module":
            dsprune.initialize(model=engine, config=CONFIG, recipe=make_recipe())
        elif what == "a module as engine":
            dsprune.PruningEngine(engine.module, make_recipe())
        else:
            dsprune.PruningEngine(dsprune.PruningEngine(engine, make_recipe()), make_recipe())
    except dsprune.UserError as error:
        return str(error)
    finally:
        engine.destroy()
    return "no error"


def start_from_zeros(comm: Comm, way: str, masks_from: Any, dense: bool = False) -> tuple[float, float] | str:
    """Take a step with a half-zero model; return the sparsity and the fraction of zeros, or the error."""
    os.environ.update(LOCAL_RANK=str(dist.get_rank()))
    model, recipe = TinyModel(), make_recipe(first=0.6, start=3)
    if dense:
        recipe = recipe.model_copy(update={"pruning": None})
    weights = [weight for name, weight in model.blocks.named_parameters() if weight.dim() == 2]
    for weight in weights:
        weight.data.view(-1)[::2] = 0
    with ExitStack() as stack:
        if way == "initialize":
            engine, *_ = dsprune.initialize(model=model, config=CONFIG, recipe=recipe, masks_from=masks_from)
        elif way == "PruningEngine":
            engine = dsprune.PruningEngine(deepspeed_engine(model=model), recipe, masks_from=masks_from)
        else:
            stack.enter_context(suppress(dsprune.RunFailedError))  # since training ends after a step
            stack.enter_context(dsprune.pruning(recipe, masks_from=masks_from))
            engine = deepspeed_engine(model=model)
        stack.callback(engine.destroy)
        try:
            engine.load_checkpoint("none")  # as a script that resumes calls it at its first start
            train_step(engine, 0)
        except dsprune.UserError as error:
            return str(error)
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        return engine.sparsity()["sparsity_prunable"], zeros / sum(weight.numel() for weight in weights)
    raise AssertionError


def error_of_masks_from(comm: Comm, way: str, masks_from: Any) -> str:
    """The error of an engine that is made with a value of `masks_from`."""
    try:
        start_from_zeros(comm, way, masks_from)
    except dsprune.UserError as error:
        return str(error)
    return "no error"


def error_of_starting_from(comm: Comm, folder: Path) -> str:
    """The error of a sparse start from a folder."""
    with pruning_engine(ds_config(2), make_recipe()) as engine:
        try:
            engine.start_sparse(folder)
        except dsprune.UserError as error:
            return str(error)
    return "no error"


def save_over_other_files(comm: Comm, folder: Path) -> None:
    """Save a model twice into a folder with a checkpoint, notes, and an older model of several files with masks."""
    if comm.rank == 0:
        folder.mkdir()
        for name in (
            "notes.txt",
            "model-best.safetensors",
            "model-00001-of-00002.safetensors",
            "masks-00007-of-00009.safetensors",
        ):
            (folder / name).write_text("mine")
    with pruning_engine(ds_config(2), make_recipe()) as engine:
        engine.save_checkpoint(folder, tag="checkpoint-1")
        engine.save_model(folder)
        engine.save_model(folder)


def errors_of_a_model_that_cannot_be_saved(comm: Comm, file: Path) -> list[str]:
    """The errors of saving a model below a file, and with the name of a tokenizer."""
    errors = []
    with pruning_engine(ds_config(2), make_recipe()) as engine:
        for folder, tokenizer in ((file / "model", None), (file.with_name("model"), "bert")):
            with pytest.raises(dsprune.UserError) as error:
                engine.save_model(folder, tokenizer)
            errors.append(str(error.value))
    return errors


def messages_of_matrices_that_begin_at_zero(comm: Comm, masks_from: Any) -> tuple[float, str]:
    """The sparsity after a step, and its messages, if the second matrix of each block is zero at first."""
    os.environ.update(LOCAL_RANK=str(dist.get_rank()))
    model, said = TinyModel(), io.StringIO()
    for block in model.blocks:
        torch.nn.init.zeros_(block.down.weight)
    recipe = make_recipe(first=0.6, start=3)
    with redirect_stderr(said):
        engine, *_ = dsprune.initialize(model=model, config=CONFIG, recipe=recipe, masks_from=masks_from)
        train_step(engine, 0)
    sparsity = engine.sparsity()["sparsity_prunable"]
    engine.destroy()
    return sparsity, said.getvalue()


def messages_of_a_block_that_trains_late(comm: Comm, method: str) -> str:
    """The messages of a run whose first block is trained only after the first mask update."""
    os.environ.update(LOCAL_RANK=str(dist.get_rank()))
    model, said = TinyModel(), io.StringIO()
    with redirect_stderr(said):
        engine, *_ = dsprune.initialize(
            model=model, config=CONFIG, recipe=make_recipe(method=method, start=2)
        )
        for step in range(STEPS):
            model.blocks[0].requires_grad_(step > 2)
            train_step(engine, step)
    assert sum(pruner_of(engine).masks.counts(comm)) == round(0.9 * 630)
    engine.destroy()
    return said.getvalue()


def wrap_and_train(comm: Comm) -> None:
    """Check that an existing engine reaches the target, with the learning rate of the timetable."""
    engine = dsprune.PruningEngine(deepspeed_engine(), make_recipe())
    assert isinstance(engine.lr_scheduler, ScaledLR)
    for step in range(STEPS):
        assert engine.get_lr() == [0.02 * engine.timetable.lr_multiplier(step)]
        train_step(engine, step)
    assert engine.sparsity()["sparsity_prunable"] == 0.9
    assert pruner_of(engine).audit() == []
    engine.destroy()


def everything_else_is_the_engines(comm: Comm) -> None:
    """Check that all other attributes are the engine's."""
    inner = deepspeed_engine()
    engine = dsprune.PruningEngine(inner, make_recipe())
    assert engine.module is inner.module
    assert engine.train_batch_size() == BATCH
    engine.eval()
    assert not engine.module.training
    engine.train()
    assert engine.module.training
    engine.destroy()


def epochs_are_counted_on_the_training_data(comm: Comm, drop_last: bool) -> tuple[int, int]:
    """The steps per epoch, and the steps of the DeepSpeed loader."""
    recipe = make_recipe(start="1 epochs", end="3 epochs")
    recipe = recipe.model_copy(
        update={"budget": recipe.budget.model_copy(update={"steps": None, "epochs": 4.0})}
    )
    os.environ.update(LOCAL_RANK=str(dist.get_rank()))
    data = TensorDataset(torch.arange(50))
    config = CONFIG | {"dataloader_drop_last": drop_last}
    engine, _, loader, _ = dsprune.initialize(
        model=TinyModel(), config=config, recipe=recipe, training_data=data
    )
    steps = engine.timetable.steps_per_epoch, len(loader) // engine.gradient_accumulation_steps()
    engine.destroy()
    return steps


def factors_on_the_learning_rate(comm: Comm, stage: int) -> list[list[int]]:
    """Adam's first step moves every entry that has a gradient by its learning rate. Returns the masks."""
    recipe = scaled(make_recipe(start=1), **{"blocks.1.up.*": 0.25, "blocks.1.*": 0.5})
    recipe = recipe.model_copy(update={"optimizer": Optimizer(weight_decay=0.0)})
    before = dict(TinyModel().named_parameters())
    with pruning_engine(ds_config(stage), recipe) as engine:
        train_step(engine, 0)
        with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
            moved = {
                name: float((weight - before[name]).abs().max())
                for name, weight in engine.module.named_parameters()
            }
        for name, distance in moved.items():
            factor = {"blocks.1.up": 0.25, "blocks.1": 0.5}
            expected = next((factor[key] for key in factor if name.startswith(key)), 1.0)
            assert abs(distance / (0.02 * expected) - 1) < 1e-2, name
        for step in range(1, STEPS):
            train_step(engine, step)
            rates = [
                factor * 0.02 * engine.timetable.lr_multiplier(step + 1) for factor in (1, 1, 0.25, 0.25)
            ]
            assert engine.get_lr()[:4] == pytest.approx(rates)
        assert pruner_of(engine).audit() == []
        return [mask.int().tolist() for mask in whole_masks(pruner_of(engine))]


def betas_move_with_the_learning_rate(comm: Comm, stage: int, folder: str) -> None:
    """Check that every step equals that of torch's AdamW with the beta of that step, before and after a checkpoint."""
    rate = LearningRate(peak=0.02, warmup="3 steps", curve="cosine", beta_at_peak=0.5)
    recipe = make_recipe().model_copy(
        update={
            "pruning": None,
            "learning_rate": rate,
            "gradient_clipping": 0.0,
            "optimizer": Optimizer(weight_decay=0.0),
        }
    )
    twin = TinyModel()
    optimizer = torch.optim.AdamW(twin.parameters(), weight_decay=0.0)
    with pruning_engine(ds_config(stage), recipe) as engine:
        made = engine.timetable
        for step in range(STEPS):
            if step == 5:
                engine.save_checkpoint(folder)
                train_step(engine, step)
                engine.load_checkpoint(folder)
            train_step(engine, step)
            beta = 0.9 + (0.5 - 0.9) * made.height(step)
            optimizer.param_groups[0].update(lr=0.02 * made.lr_multiplier(step), betas=(beta, 0.999))
            optimizer.zero_grad()
            twin(**batch(step, BATCH, 0, 1)).loss.backward()
            optimizer.step()
        assert made.height(3) == 1
        with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
            for ours, plain in zip(engine.module.parameters(), twin.parameters(), strict=True):
                torch.testing.assert_close(ours.detach(), plain.detach(), rtol=1e-3, atol=1e-5)


def dense_recipe_trains_densely(comm: Comm) -> None:
    """Check that an engine without a pruning section only has a schedule."""
    os.environ.update(LOCAL_RANK=str(dist.get_rank()))
    recipe = make_recipe().model_copy(update={"pruning": None})
    engine, *_ = dsprune.initialize(model=TinyModel(), config=CONFIG, recipe=recipe)
    for step in range(STEPS):
        train_step(engine, step)
    assert engine.pruner is None
    assert engine.sparsity() == {"sparsity_prunable": 0.0, "sparsity_model": 0.0}
    engine.destroy()

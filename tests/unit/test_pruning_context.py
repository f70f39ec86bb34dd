"""`dsprune.pruning` without an engine, and its changes to transformers' Trainer."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from transformers import TrainerState, TrainingArguments
from transformers.trainer_callback import TrainerControl

import dsprune
from dsprune.engine.frameworks import _announce_monitors, _Initialize, _lightning_steps
from dsprune.schedule import recipe_timetable
from dsprune.testing.engines import make_recipe


def test_an_optimizer_that_steps_without_an_engine_is_refused_at_its_first_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED", raising=False)
    model = nn.Linear(2, 2)
    weight = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.ones(2)).sum().backward()
    with (
        pytest.raises(dsprune.UserError, match=r"^pruning: SGD steps, but no DeepSpeed engine.*ds_config"),
        dsprune.pruning(make_recipe()),
    ):
        optimizer.step()
    assert torch.equal(model.weight, weight)
    optimizer.step()  # the context is closed
    assert not torch.equal(model.weight, weight)


def test_another_recipe_in_a_context_is_refused() -> None:
    recipe = make_recipe()
    with (
        pytest.raises(dsprune.UserError, match=r"^initialize: called inside dsprune.pruning, .*recipe"),
        dsprune.pruning(recipe),
    ):
        dsprune.initialize(model=nn.Linear(2, 2), config={}, recipe=recipe)


def test_a_context_without_an_engine_is_refused() -> None:
    with (
        pytest.raises(dsprune.UserError, match=r"^pruning: the block ended, but no DeepSpeed engine"),
        dsprune.pruning(make_recipe()),
    ):
        pass


def test_a_deepspeed_plugin_that_accelerate_ignores_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")  # as Accelerator(deepspeed_plugin=...) sets it
    with (
        pytest.raises(dsprune.UserError, match=r"`prepare` inside it, without Accelerator\(cpu=True\)"),
        dsprune.pruning(make_recipe()),
    ):
        pass


@pytest.mark.filterwarnings("ignore")  # of Lightning
def test_what_compares_models_of_lightning_before_the_last_mask_update_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import lightning.pytorch as lightning  # slow to import, and no other unit test needs it
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

    module = lightning.LightningModule()
    callbacks = [ModelCheckpoint(monitor="val"), ModelCheckpoint(), EarlyStopping("loss")]
    module.trainer = lightning.Trainer(accelerator="cpu", logger=False, callbacks=callbacks)
    _announce_monitors(nn.Linear(1, 1), recipe_timetable(make_recipe(), None))
    assert "dsprune: " not in capsys.readouterr().err
    _announce_monitors(module, recipe_timetable(make_recipe(), None))
    said = capsys.readouterr().err.splitlines()
    found = [line.partition(" also ")[0] for line in said if "at step 6, which have fewer zeros" in line]
    assert found == ["dsprune: EarlyStopping(monitor='loss')", "dsprune: ModelCheckpoint(monitor='val')"]


class Stream(IterableDataset[int]):
    """Examples without a length, as of a streamed data set."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(48))


def loaders_of(train: int, evaluation: int, shuffle: bool) -> list[Any]:
    data = TensorDataset(torch.zeros(48))
    made = DataLoader(data, train, shuffle=shuffle), DataLoader(data, evaluation)
    return [prepare_data_loader(loader, num_processes=2, process_index=0) for loader in made]


def steps_an_epoch(loaders: list[Any], micro_batch: int, accumulation: int = 1) -> int | None:
    recipe = make_recipe()
    budget = recipe.budget.model_copy(update={"steps": None, "epochs": 2.0})
    recipe = recipe.model_copy(update={"budget": budget})
    initialize = _Initialize(recipe, None, None, ExitStack(), loaders=loaders)
    config = {"train_micro_batch_size_per_gpu": micro_batch, "gradient_accumulation_steps": accumulation}
    return initialize._loader_steps(config)


@pytest.mark.parametrize(("evaluation", "shuffle"), [(8, True), (4, True), (12, True), (12, False)])
def test_steps_an_epoch_are_those_of_the_loader_that_trains(evaluation: int, shuffle: bool) -> None:
    assert steps_an_epoch(loaders_of(8, evaluation, shuffle), 8) == 3


def test_a_batch_of_all_ranks_is_split() -> None:
    loader = DataLoader(TensorDataset(torch.zeros(48)), 16)
    split = prepare_data_loader(loader, num_processes=2, process_index=0, split_batches=True)
    assert steps_an_epoch([split], 8) == 3


def test_a_rest_of_accumulated_batches_is_a_step() -> None:
    assert steps_an_epoch(loaders_of(8, 8, shuffle=True), 8, accumulation=2) == 2


def test_a_loader_of_a_stream_has_no_steps_an_epoch() -> None:
    stream = prepare_data_loader(DataLoader(Stream(), 8), num_processes=1, process_index=0)
    assert steps_an_epoch([stream], 8) is None


def test_loaders_of_several_lengths_have_no_steps_an_epoch_for_a_recipe_in_steps() -> None:
    loaders = [
        prepare_data_loader(DataLoader(TensorDataset(torch.zeros(size)), 8), num_processes=1, process_index=0)
        for size in (48, 24)
    ]
    config = {"train_micro_batch_size_per_gpu": 8}
    assert _Initialize(make_recipe(), None, None, ExitStack(), loaders=loaders)._loader_steps(config) is None


@pytest.mark.filterwarnings("ignore")  # of Lightning
@pytest.mark.parametrize(
    ("data", "settings", "steps"),
    [
        (TensorDataset(torch.zeros(48)), {"max_epochs": 2}, 6),
        (TensorDataset(torch.zeros(48)), {"max_epochs": 2, "accumulate_grad_batches": 4}, 2),
        (TensorDataset(torch.zeros(48)), {"max_epochs": 3, "max_steps": 3}, 6),
        (TensorDataset(torch.zeros(48)), {"max_epochs": -1, "max_steps": 3}, 6),
        (Stream(), {"max_epochs": 2}, None),
    ],
)
def test_steps_an_epoch_are_those_of_lightnings_loader(
    tmp_path: Path, data: Any, settings: dict[str, Any], steps: int | None
) -> None:
    import lightning.pytorch as lightning

    found = []

    class Module(lightning.LightningModule):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            found.append(_lightning_steps(self))
            self.weight = nn.Parameter(torch.ones(1))
            return torch.optim.SGD([self.weight], lr=0.0)

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            return self.weight.sum()

    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = lightning.Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet, **settings)
    trainer.fit(Module(), DataLoader(data, 8))
    assert found == [steps]


def test_the_batch_of_a_loader_for_evaluation_is_not_taken_for_that_of_training() -> None:
    says = r"^train_micro_batch_size_per_gpu=4: Accelerate takes the smallest .* the one that shuffles has 8: set"
    with pytest.raises(dsprune.UserError, match=says):
        steps_an_epoch(loaders_of(8, 4, shuffle=True), 4)


@pytest.mark.parametrize(("step", "best"), [(0, None), (6, None), (7, 0.7)])
def test_the_best_model_of_a_trainer_is_one_after_the_last_mask_update(step: int, best: float | None) -> None:
    timetable = recipe_timetable(make_recipe(), None)
    assert timetable.updates[-1].step == 6
    engine: Any = SimpleNamespace(timetable=timetable, applied_steps=step)
    state = TrainerState(best_metric=0.7, best_global_step=step, best_model_checkpoint="checkpoint")
    unused = cast(TrainingArguments, None)
    dsprune.TrainerCallback(engine).on_step_begin(unused, state, TrainerControl())
    assert state.best_metric == best
    assert (state.best_model_checkpoint is None) == (best is None)


def test_a_log_of_the_trainer_and_its_history_show_the_pruning() -> None:
    engine: Any = SimpleNamespace(
        timetable=recipe_timetable(make_recipe(), None), applied_steps=0, sparsity=lambda: {"sparsity": 0.25}
    )
    history, logs = {"loss": 0.5, "step": 1}, {"loss": 0.5}
    state = TrainerState(log_history=[history])
    callback = dsprune.TrainerCallback(engine)
    unused = cast(TrainingArguments, None)
    callback.on_log(unused, state, TrainerControl(), logs)
    assert logs == {"loss": 0.5, "sparsity": 0.25, "phase": "prune", "mask_updates": 0}
    assert history == logs | {"step": 1}

"""Training that bypasses the masks or the schedule of the engine ends the run with one line."""

import tempfile
from collections import OrderedDict
from collections.abc import Callable

import deepspeed
import pytest
import torch
from deepspeed import DeepSpeedEngine

import dsprune
from dsprune.model.patterns import parameter_groups
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Optimizer
from dsprune.testing.engines import STEPS, ds_config, make_recipe, pruning_engine
from dsprune.testing.pool import RankPool
from dsprune.testing.tiny import TinyModel
from tests.engine.scenarios import pruner_of, train_step
from tests.engine.wrapping import deepspeed_engine


def step_the_optimizer(engine: dsprune.PruningEngine) -> None:
    engine.optimizer.step()


def step_as_another_class(engine: dsprune.PruningEngine) -> None:
    DeepSpeedEngine.step(engine)


def set_a_rate(engine: dsprune.PruningEngine) -> None:
    engine.basic_optimizer.param_groups[0]["lr"] = 0.5


def remove_the_hooks(engine: dsprune.PruningEngine) -> None:
    for hooks in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        getattr(engine.basic_optimizer, hooks).clear()


def replace_the_hooks(engine: dsprune.PruningEngine) -> None:
    engine.basic_optimizer._optimizer_step_pre_hooks = OrderedDict()


def replace_the_optimizer(engine: dsprune.PruningEngine) -> None:
    other = type(engine.basic_optimizer)(engine.basic_optimizer.param_groups)
    engine.basic_optimizer.step = other.step


def load_the_module(engine: dsprune.PruningEngine) -> None:
    engine.module.load_state_dict(TinyModel(seed=1).state_dict())


def load_the_gathered_module(engine: dsprune.PruningEngine) -> None:
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters()), modifier_rank=0):
        load_the_module(engine)


def write_to_the_masters(engine: dsprune.PruningEngine) -> None:
    layout = pruner_of(engine).layout
    for index in range(len(layout.shards)):
        layout.weight(index).fill_(0.5)


def load_the_moments(engine: dsprune.PruningEngine) -> None:
    for state in engine.basic_optimizer.state.values():
        state["exp_avg"].fill_(0.5)


def error_of(comm: Comm, stage: int, act: Callable[[dsprune.PruningEngine], None], last: int = STEPS) -> str:
    """Train `last` steps, with `act` before the fourth, then save, and return the error that ends the run."""
    with pruning_engine(ds_config(stage), make_recipe()) as engine:
        try:
            for step in range(last):
                train_step(engine, step, lambda step=step: act(engine) if step == 3 else None)
            with tempfile.TemporaryDirectory() as folder:
                engine.save_checkpoint(folder)
        except dsprune.RunFailedError as error:
            return str(error)
    return "no error"


def error_of_growing(comm: Comm, stage: int) -> str:
    """Load moments just before a mask update that lets weights grow back, and return the error."""
    with pruning_engine(ds_config(stage), make_recipe(method="rigl")) as engine:
        second = engine.timetable.updates[1].step
        try:
            for step in range(second + 1):
                train_step(
                    engine, step, lambda step=step: load_the_moments(engine) if step == second else None
                )
        except dsprune.RunFailedError as error:
            return str(error)
    return "no error"


@pytest.mark.parametrize("stage", [1, 3])
def test_a_weight_grows_back_with_zero_moments_only(one_rank: RankPool, stage: int) -> None:
    [error] = one_rank.run(1, error_of_growing, stage)
    assert error.startswith("blocks.0.up.weight: moments of its pruned weights are not zero")


def set_a_setting(engine: dsprune.PruningEngine) -> None:
    engine.basic_optimizer.param_groups[0]["weight_decay"] = 0.5


def add_a_group(engine: dsprune.PruningEngine) -> None:
    engine.basic_optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))], "lr": 0.02})


CHANGED = r"^blocks.0.up.weight: its weights were changed outside of PruningEngine.step\(\)"


OF_THE_OPTIMIZER = (
    (step_the_optimizer, r"^optimizer: .*step\(\) was called outside of PruningEngine.step\(\)"),
    (step_as_another_class, r"^optimizer: .*step\(\) was called outside of PruningEngine.step\(\)"),
    (set_a_rate, r"^learning_rate: parameter group 0 has 0.5 at step 3"),
    (set_a_setting, r"^optimizer: parameter group 0 has weight_decay=0.5, and 0.01 when"),
    (remove_the_hooks, r"^optimizer: its step hooks were removed"),
    (replace_the_hooks, r"^optimizer: its step hooks were removed"),
    (replace_the_optimizer, r"^optimizer: its step hooks were removed"),
)
OF_THE_WEIGHTS = (load_the_module, load_the_gathered_module, write_to_the_masters, load_the_moments)


@pytest.mark.parametrize(
    ("stage", "act", "says"),
    [
        *((stage, act, says) for act, says in OF_THE_OPTIMIZER for stage in (0, 3)),
        *((stage, act, CHANGED) for act in OF_THE_WEIGHTS for stage in (0, 1, 2, 3)),
    ],
)
def test_a_guard_ends_the_run(
    one_rank: RankPool, stage: int, act: Callable[[dsprune.PruningEngine], None], says: str
) -> None:
    [error] = one_rank.run(1, error_of, stage, act)
    with pytest.raises(dsprune.RunFailedError, match=says):
        raise dsprune.RunFailedError(error)


def spoil_the_gradients(engine: dsprune.PruningEngine) -> None:
    for parameter in engine.module.parameters():
        parameter.grad.fill_(float("nan"))


def test_a_step_with_nan_is_called_so(one_rank: RankPool) -> None:
    [error] = one_rank.run(1, error_of, 0, spoil_the_gradients)  # the other stages skip the step
    assert error.startswith("blocks.0.up.weight: its weights are NaN: a loss or a gradient was NaN or inf")


@pytest.mark.parametrize("stage", [0, 2])
def test_what_happens_after_the_last_mask_update_is_found_when_it_is_saved(
    one_rank: RankPool, stage: int
) -> None:
    [error] = one_rank.run(1, error_of, stage, write_to_the_masters, 4)
    assert "its weights were changed outside" in error


def replace_a_module(engine: dsprune.PruningEngine) -> None:
    engine.module.blocks[0].up = torch.nn.Linear(7, 15)


def add_a_module(engine: dsprune.PruningEngine) -> None:
    engine.module.added = torch.nn.Linear(7, 3)


def train_a_frozen_head(engine: dsprune.PruningEngine) -> None:
    engine.module.head.requires_grad_(True)


def assign_to_the_module(engine: dsprune.PruningEngine) -> None:
    values = {name: value.clone() for name, value in engine.module.state_dict().items()}
    engine.module.load_state_dict(values, assign=True)


def resize_the_embeddings(engine: dsprune.PruningEngine) -> None:
    """Resize like transformers' `resize_token_embeddings`: the parameter stays, with other data."""
    weight = engine.module.embed.weight
    weight.data = torch.cat([weight.data, weight.data])


def set_the_batch(engine: dsprune.PruningEngine) -> None:
    engine.set_train_batch_size(24)


def write_to_the_data(engine: dsprune.PruningEngine) -> None:
    """Write like an average of weights into a model: the versions of the parameters stay."""
    for parameter in engine.module.parameters():
        parameter.data.add_(0.5)


def offload_the_states(engine: dsprune.PruningEngine) -> None:
    engine.offload_states()


def with_a_frozen_head(seed: int) -> TinyModel:
    model = TinyModel(seed)
    model.head.requires_grad_(False)
    return model


def error_of_the_last_step(comm: Comm, stage: int, act: Callable[[dsprune.PruningEngine], None]) -> str:
    """Train to the end, with `act` after the last mask update, and save nothing."""
    model = with_a_frozen_head if act is train_a_frozen_head else TinyModel
    with pruning_engine(ds_config(stage), make_recipe(), model=model) as engine:
        try:
            for step in range(STEPS):
                if step == STEPS - 1:
                    act(engine)
                train_step(engine, step)
        except (dsprune.RunFailedError, dsprune.UserError) as error:
            return str(error)
    return "no error"


@pytest.mark.parametrize(
    ("stage", "act", "says"),
    [
        (0, resize_the_embeddings, "embed.weight: this parameter was replaced, resized"),
        (2, resize_the_embeddings, "embed.weight: this parameter was replaced, resized"),
        (0, set_the_batch, "budget.batch=12 in the recipe, 24 in the engine"),
        (0, write_to_the_data, "its weights were changed outside"),
        (2, write_to_the_masters, "its weights were changed outside"),
        (0, replace_a_module, "blocks.0.up.weight: this parameter was replaced, resized, added or unfrozen"),
        (2, replace_a_module, "blocks.0.up.weight: this parameter was replaced, resized, added or unfrozen"),
        (2, add_a_module, "added.weight: this parameter was replaced, resized, added or unfrozen"),
        (2, offload_the_states, "offload_states() has moved its states away: call engine.reload_states()"),
        (1, offload_the_states, "offload_states() has moved its states away: call engine.reload_states()"),
        (2, train_a_frozen_head, "head.weight: this parameter was replaced, resized, added or unfrozen"),
        (
            2,
            assign_to_the_module,
            "blocks.0.up.weight: this parameter was replaced, resized, added or unfrozen",
        ),
        (
            3,
            assign_to_the_module,
            "blocks.0.up.weight: this parameter was replaced, resized, added or unfrozen",
        ),
    ],
)
def test_what_happens_after_the_last_mask_update_is_found_at_the_end(
    one_rank: RankPool, stage: int, act: Callable[[dsprune.PruningEngine], None], says: str
) -> None:
    [error] = one_rank.run(1, error_of_the_last_step, stage, act)
    assert says in error


def test_a_group_that_is_added_later_ends_the_run(one_rank: RankPool) -> None:
    [error] = one_rank.run(1, error_of, 0, add_a_group)  # with the other stages, DeepSpeed itself fails
    assert error.startswith("optimizer: it has 3 parameter groups, but had 2 when the engine was made")


def disagreement(comm: Comm) -> str:
    """Attach a recipe that disagrees with its engine in five settings, and return the error."""
    recipe = make_recipe()
    different = recipe.model_copy(
        update={
            "gradient_clipping": 1.0,
            "budget": recipe.budget.model_copy(update={"batch": 24}),
            "learning_rate": recipe.learning_rate.model_copy(update={"peak": 0.5}),
            "optimizer": Optimizer(type="Adam", decoupled=False, decayed="all"),
        }
    )
    model = TinyModel()
    engine = deepspeed_engine(model=model, model_parameters=parameter_groups(model, None, {}))
    try:
        dsprune.PruningEngine(engine, different)
    except dsprune.UserError as error:
        return str(error)
    finally:
        engine.destroy()
    return "no error"


def test_every_setting_that_differs_is_named_with_both_values(one_rank: RankPool) -> None:
    [error] = one_rank.run(1, disagreement)
    for setting in ("budget.batch=24", "gradient_clipping=1", "learning_rate.peak=0.5"):
        assert setting in error
    assert "optimizer.decoupled=False in the recipe, True in the engine" in error
    assert "optimizer.decayed=all in the recipe, matrices in the engine" in error
    assert "12 in the engine" in error
    assert "0.1 in the engine" in error

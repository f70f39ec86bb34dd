"""Whatever would train without masks or off the schedule, behind the engine's back, ends the run with one line."""

from collections.abc import Callable, Iterator

import pytest
from deepspeed import DeepSpeedEngine

import dsprune
from dsprune.ranks.collectives import Comm
from dsprune.testing.pool import RankPool
from tests.engine.scenarios import ds_config, make_recipe, pruning_engine, train_step
from tests.engine.wrapping import deepspeed_engine


@pytest.fixture(scope="module")
def rank() -> Iterator[RankPool]:
    with RankPool(1) as pool:
        yield pool


def step_the_optimizer(engine: dsprune.PruningEngine) -> None:
    engine.optimizer.step()


def step_as_another_class(engine: dsprune.PruningEngine) -> None:
    DeepSpeedEngine.step(engine)


def set_a_rate(engine: dsprune.PruningEngine) -> None:
    engine.basic_optimizer.param_groups[0]["lr"] = 0.5


def remove_the_hooks(engine: dsprune.PruningEngine) -> None:
    for hooks in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        getattr(engine.basic_optimizer, hooks).clear()


def error_of(comm: Comm, stage: int, act: Callable[[dsprune.PruningEngine], None]) -> str:
    """Train two steps, `act` before the third, and return the error that ends the run."""
    with pruning_engine(ds_config(stage), make_recipe()) as engine:
        for step in range(2):
            train_step(engine, step)
        try:
            train_step(engine, 2, lambda: act(engine))
        except dsprune.RunFailedError as error:
            return str(error)
    return "no error"


@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize(
    ("act", "says"),
    [
        (step_the_optimizer, r"^optimizer: .*step\(\) was called outside of PruningEngine.step\(\)"),
        (step_as_another_class, r"^optimizer: .*step\(\) was called outside of PruningEngine.step\(\)"),
        (set_a_rate, r"^learning_rate: parameter group 0 has 0.5 at step 2"),
        (remove_the_hooks, r"^optimizer: its step hooks were removed"),
    ],
)
def test_a_guard_ends_the_run(
    rank: RankPool, stage: int, act: Callable[[dsprune.PruningEngine], None], says: str
) -> None:
    [error] = rank.run(1, error_of, stage, act)
    with pytest.raises(dsprune.RunFailedError, match=says):
        raise dsprune.RunFailedError(error)


def disagreement(comm: Comm) -> str:
    """Attach a recipe that disagrees with its engine in three settings, and return the error."""
    recipe = make_recipe()
    different = recipe.model_copy(
        update={
            "gradient_clipping": 1.0,
            "budget": recipe.budget.model_copy(update={"batch": 24}),
            "learning_rate": recipe.learning_rate.model_copy(update={"peak": 0.5}),
        }
    )
    engine = deepspeed_engine()
    try:
        dsprune.PruningEngine(engine, different)
    except dsprune.UserError as error:
        return str(error)
    finally:
        engine.destroy()
    return "no error"


def test_every_setting_that_differs_is_named_with_both_values(rank: RankPool) -> None:
    [error] = rank.run(1, disagreement)
    for setting in ("budget.batch=24", "gradient_clipping=1", "learning_rate.peak=0.5"):
        assert setting in error
    assert "12 in the engine" in error
    assert "0.1 in the engine" in error

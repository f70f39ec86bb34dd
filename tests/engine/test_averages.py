"""An average of weights that a script puts into its model: saved if it is sparse."""

import tempfile

import deepspeed
import pytest
from safetensors.torch import load_file

import dsprune
from dsprune.ranks.collectives import Comm
from dsprune.testing.engines import STEPS, ds_config, make_recipe, pruning_engine
from dsprune.testing.pool import RankPool
from dsprune.testing.tiny import TinyModel
from tests.engine.scenarios import train_step


def model_of_an_average(comm: Comm, stage: int, weight: float) -> float | str:
    """At the end, put an average of the model and a dense one, with `weight`, into the engine, and save the model.

    Returns:
        The largest distance of a saved weight from the average, or the error of saving it.
    """
    with pruning_engine(ds_config(stage), make_recipe()) as engine, tempfile.TemporaryDirectory() as folder:
        for step in range(STEPS):
            train_step(engine, step)
        dense = TinyModel().state_dict()
        with deepspeed.zero.GatheredParameters(list(engine.module.parameters()), modifier_rank=0):
            now = {name: value.clone() for name, value in engine.module.state_dict().items()}
            average = {name: value * 0.5 + dense[name] * weight for name, value in now.items()}
            engine.module.load_state_dict(average)
        try:
            engine.save_model(folder + "/model")
        except dsprune.RunFailedError as error:
            return str(error)
        saved = load_file(folder + "/model/model.safetensors")
        return max(float((saved[name] - value).abs().max()) for name, value in average.items())


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_an_average_of_sparse_weights_is_saved_as_it_is(one_rank: RankPool, stage: int) -> None:
    assert one_rank.run(1, model_of_an_average, stage, 0.0) == [0.0]


def test_an_average_that_is_not_sparse_is_refused(one_rank: RankPool) -> None:
    [error] = one_rank.run(1, model_of_an_average, 3, 0.5)
    assert str(error).startswith("blocks.0.up.weight: its weights were changed outside")

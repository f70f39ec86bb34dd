"""The inputs of decoders are counted once, at every ZeRO stage, also with other forward passes."""

from typing import Any

import pytest

from dsprune.testing.engines import ds_config, make_recipe
from dsprune.testing.pool import RankPool
from tests.engine import counting

ONE_SHOT: dict[str, Any] = {"curve": "one-shot", "start": 1, "end": None, "first": None, "updates": None}


PLACES = [
    (1, 3, "gpt2"),
    *((2, stage, "gpt2") for stage in (0, 1, 2, 3)),
    *((2, stage, "llama") for stage in (1, 3)),
    *((2, stage, "llama with tied layers") for stage in (0, 2)),
]


@pytest.mark.parametrize(("ranks", "stage", "name"), PLACES, indirect=["ranks"])
def test_inputs_are_counted_once_and_prune_the_lowest_of_each_row(
    ranks: RankPool, stage: int, name: str
) -> None:
    config = ds_config(stage, gradient_accumulation_steps=2)
    recipe = make_recipe(method="wanda", **ONE_SHOT | {"sparsity": 0.5})
    ranks.run(ranks.size, counting.check_inputs, config, recipe, name)

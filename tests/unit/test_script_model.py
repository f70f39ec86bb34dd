"""The recipe's fields in a script that has its own model and data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertForSequenceClassification

from dsprune.engine.script import fields_of_the_script, fit_to_recipe
from dsprune.errors import UserError
from dsprune.model.fit import set_dropout
from dsprune.recipe import Recipe
from dsprune.testing.tiny import TinyModel, tiny_bert
from dsprune.zero.agreement import _is_of_type
from dsprune.zero.parameters import check_parameters


def recipe(**sections: Any) -> Recipe:
    return Recipe.model_validate(
        {"name": "test", "budget": {"steps": 4, "batch": 4}, "pruning": {"sparsity": 0.9}} | sections
    )


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("model"))


def test_dropout_is_set_in_the_model_of_a_script(bert: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(bert)
    fit_to_recipe(model, recipe(model={"path": str(bert), "dropout": 0.25, "layers": [1, 3]}))
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.25}
    assert model.config.hidden_dropout_prob == 0.25


@pytest.mark.parametrize("settings", [{}, {"dropout": "model"}])
def test_the_law_changes_no_dropout_of_a_script(bert: Path, settings: dict[str, Any]) -> None:
    model = BertForSequenceClassification.from_pretrained(bert)
    fit_to_recipe(model, recipe(model={"path": str(bert), **settings}, pruning={"sparsity": 0.9}))
    assert model.config.hidden_dropout_prob == 0.1


def test_a_dropout_that_is_a_whole_number_is_set_too() -> None:
    module = nn.MultiheadAttention(4, 2, dropout=0)
    set_dropout(module, 0.5)
    assert module.dropout == 0.5


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"layers": [0, 2]}, r"^model.layers: \[0, 2\]: 2 layers, but the script's model has 3: "),
        ({"vocabulary": "used"}, r"^model.vocabulary: used: .*script"),
        ({"new_head": True}, r"^model.new_head: true: .*script"),
        ({"resize_embeddings": True}, r"^model.resize_embeddings: true: .*script"),
        ({"dropout": 0.5}, r"^model.dropout: 0.5: TinyModel has no dropout"),
    ],
)
def test_what_only_loading_can_do_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        fit_to_recipe(TinyModel(), recipe(model={"path": "m"} | settings))


def test_layers_are_refused_where_there_is_more_than_one_stack() -> None:
    with pytest.raises(UserError, match=r"^model.layers: Sequential has 2 stacks of layers"):
        fit_to_recipe(nn.Sequential(TinyModel(), TinyModel()), recipe(model={"path": "m", "layers": [0, 1]}))


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({}, []),
        ({"model": {"path": "m", "dropout": 0.5, "layers": [0], "start": "fine-tuned"}}, ["model.path"]),
        (
            {"tracking": {"wandb": True}, "checkpoints": {"keep": 3}, "seed": 1, "output": "there"},
            ["checkpoints.keep", "tracking.wandb", "seed", "output"],
        ),
        ({"task": {"name": "sst2"}, "deepspeed": "zero3"}, ["task", "deepspeed"]),
        ({"task": {"name": "sst2"}, "distillation": {"teacher": "t"}}, []),
        ({"pruning": {"sparsity": 0.9, "method": "random"}, "seed": 1}, []),
        ({"pruning": {"sparsity": 0.9, "method": "set"}, "seed": 1}, []),
        ({"pruning": {"sparsity": 0.9, "method": "rigl", "first_method": "random"}, "seed": 1}, []),
    ],
)
def test_what_the_script_decides_is_named(sections: dict[str, Any], named: list[str]) -> None:
    assert list(fields_of_the_script(TinyModel(), recipe(**sections))) == named


def test_the_models_own_path_needs_no_word(bert: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(bert)
    assert not list(fields_of_the_script(model, recipe(model={"path": str(bert)})))


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [
        (torch.optim.AdamW, {"AdamW", "adamw", "Adam"}),
        (torch.optim.Adam, {"Adam"}),
        (torch.optim.SGD, {"SGD", "sgd"}),
    ],
)
def test_an_optimizer_is_compared_with_the_recipes_type(
    optimizer: type[torch.optim.Optimizer], names: set[str]
) -> None:
    made = optimizer(TinyModel().parameters(), lr=0.1)
    asked = {"AdamW", "adamw", "Adam", "SGD", "sgd", "Lion"}
    assert {name for name in asked if _is_of_type(made, name)} == names


def scalar() -> nn.Module:
    model = nn.Linear(2, 2)
    model.scale = nn.Parameter(torch.tensor(1.0))
    return model


def transposed() -> nn.Module:
    model = nn.Linear(2, 3)
    model.weight = nn.Parameter(torch.zeros(2, 3).t())
    return model


def empty() -> nn.Module:
    model = nn.Linear(2, 2)
    model.prompt = nn.Parameter(torch.zeros(0, 2))
    return model


def complex_valued() -> nn.Module:
    model = nn.Linear(2, 2)
    model.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    return model


def overlapping() -> nn.Module:
    memory, model = torch.zeros(6, 2), nn.ModuleDict({"a": nn.Linear(2, 4), "b": nn.Linear(2, 4)})
    model["a"].weight, model["b"].weight = nn.Parameter(memory[:4]), nn.Parameter(memory[2:])
    return model


def apart() -> nn.Module:
    """Two halves of one buffer, and a tied parameter."""
    memory, model = torch.zeros(8, 2), nn.ModuleDict({name: nn.Linear(2, 4) for name in "abc"})
    model["a"].weight, model["b"].weight = nn.Parameter(memory[:4]), nn.Parameter(memory[4:])
    model["c"].weight = model["a"].weight
    return model


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: nn.LazyLinear(2), "^model: weight has no shape yet"),
        (lambda: nn.Linear(2, 2, device="meta"), "^model: weight is on the device meta, without values"),
        (scalar, r"^model: scale is of shape \[\]"),
        (transposed, "^model: weight is not contiguous"),
        (empty, r"^model: prompt is of shape \[0, 2\], without weights, .*buffer"),
        (complex_valued, r"^model: phase is torch.complex64, .*view_as_real"),
        (overlapping, "^model: a.weight and b.weight share memory but are two parameters, .*clone"),
    ],
)
def test_parameters_that_deepspeed_cannot_train_are_refused(make: Callable[[], nn.Module], says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_parameters(make())
    check_parameters(apart())

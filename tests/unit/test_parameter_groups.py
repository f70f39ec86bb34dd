"""The optimizer's groups: weight decay only for matrices, and factors on the learning rate."""

from typing import Any

import pytest
import torch
from torch import nn

from dsprune.errors import UserError
from dsprune.model.patterns import parameter_groups


@pytest.fixture
def model() -> nn.Module:
    model = nn.Module()
    model.encoder = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    model.decoder = nn.Linear(3, 5)
    model.head = nn.Linear(3, 5, bias=False)
    model.head.weight = model.decoder.weight
    model.frozen = nn.Linear(3, 3).requires_grad_(False)
    return model


def named(model: nn.Module, groups: list[dict[str, Any]]) -> list[tuple[list[str], dict[str, float]]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        ([names[id(p)] for p in group["params"]], {k: v for k, v in group.items() if k != "params"})
        for group in groups
    ]


def test_biases_and_norms_have_no_weight_decay(model: nn.Module) -> None:
    assert named(model, parameter_groups(model, None, {})) == [
        (["encoder.0.weight", "decoder.weight"], {}),
        (["encoder.0.bias", "encoder.1.weight", "encoder.1.bias", "decoder.bias"], {"weight_decay": 0.0}),
    ]


def test_all_parameters_have_weight_decay_if_asked(model: nn.Module) -> None:
    [(names, settings)] = named(model, parameter_groups(model, None, {}, decayed="all"))
    assert (len(names), settings) == (6, {})
    groups = parameter_groups(model, 1e-3, {"encoder.*": 0.5}, decayed="all")
    assert [settings for _, settings in named(model, groups)] == [{}, {"lr": 0.5e-3}]


def test_tables_in_the_blocks_have_no_weight_decay() -> None:
    block = nn.Sequential(nn.Linear(4, 4, bias=False), nn.LayerNorm([3, 4], bias=False))
    block.experts = nn.Parameter(torch.randn(3, 4, 4))
    block.experts_bias = nn.Parameter(torch.randn(3, 4))
    model = nn.ModuleList([block])
    assert named(model, parameter_groups(model, None, {})) == [
        (["0.experts", "0.0.weight"], {}),
        (["0.experts_bias", "0.1.weight"], {"weight_decay": 0.0}),
    ]


def test_the_first_pattern_that_matches_gives_the_factor(model: nn.Module) -> None:
    groups = parameter_groups(model, 1e-3, {"encoder.0.*": 0.5, "encoder.*": 0.25})
    assert named(model, groups) == [
        (["decoder.weight"], {}),
        (["decoder.bias"], {"weight_decay": 0.0}),
        (["encoder.1.weight", "encoder.1.bias"], {"lr": 0.25e-3, "weight_decay": 0.0}),
        (["encoder.0.weight"], {"lr": 0.5e-3}),
        (["encoder.0.bias"], {"lr": 0.5e-3, "weight_decay": 0.0}),
    ]


def test_a_tied_weight_is_found_by_any_of_its_names(model: nn.Module) -> None:
    assert (["decoder.weight"], {"lr": 2e-3}) in named(model, parameter_groups(model, 1e-3, {"head.*": 2.0}))


@pytest.mark.parametrize(
    ("scale", "says"),
    [
        (
            {"encodr.*": 0.1},
            "^learning_rate.scale: 'encodr.*' matches no parameter .* did you mean 'encoder'?",
        ),
        (
            {"*": 0.1, "encoder.*": 0.2},
            "^learning_rate.scale: 'encoder.*' has no effect, earlier patterns match",
        ),
    ],
)
def test_a_pattern_without_effect_is_refused(model: nn.Module, scale: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        parameter_groups(model, 1e-3, scale)


def test_factors_need_something_to_scale(model: nn.Module) -> None:
    with pytest.raises(UserError, match=r"^learning_rate.scale: .*: give learning_rate.peak too"):
        parameter_groups(model, None, {"encoder.*": 0.1})

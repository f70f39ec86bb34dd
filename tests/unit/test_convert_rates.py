"""Learning rates of SparseML and schedulers of DeepSpeed, converted, against the values of their sources."""

import json
from collections.abc import Callable
from math import cos, pi
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from deepspeed.runtime import lr_schedules
from torch.optim import lr_scheduler

from dsprune.commands.convert.convert import convert_file
from dsprune.recipe.loading import check_recipe
from dsprune.schedule import recipe_timetable

STEPS = 10
"""Steps in an epoch."""

GIVEN = "budget.batch=16", "name=x"


def written(folder: Path, text: str, name: str = "source.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def rates_of(values: dict[str, Any], steps: int = STEPS) -> list[float]:
    """The learning rate at every step of a run."""
    recipe = check_recipe(values)
    made = recipe_timetable(recipe, steps)
    return [(recipe.learning_rate.peak or 0) * made.lr_multiplier(step) for step in range(made.total_steps)]


def sparseml(*modifiers: str, epochs: float = 12) -> str:
    whole = [f"!EpochRangeModifier {{start_epoch: 0, end_epoch: {epochs}}}", *modifiers]
    return "modifiers:\n" + "".join(f"  - {modifier}\n" for modifier in whole)


def scheduled(name: str, **settings: Any) -> str:
    values = {"start_epoch": 0, "end_epoch": -1, "init_lr": 0.5, "lr_class": name, "lr_kwargs": settings}
    return f"!LearningRateModifier {json.dumps(values)}"


def function(kind: str, start: float, end: float, first: float, last: float) -> str:
    values = {"lr_func": kind, "start_epoch": start, "end_epoch": end, "init_lr": first, "final_lr": last}
    return f"!LearningRateFunctionModifier {json.dumps(values)}"


def constant(start: float, rate: float) -> str:
    return f"!SetLearningRateModifier {{start_epoch: {start}, learning_rate: {rate}}}"


def by_torch(make: Callable[[torch.optim.Optimizer], Any], count: int, scale: int = 1) -> list[float]:
    """The rates of a scheduler of torch from 0.5 on, stepped after every step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler, found = make(optimizer), []
    for step in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(*([] if scale == 1 else [(step + 1) / scale]))
    return found


def half_cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + cos(pi * share)) / 2


EXACT: dict[str, tuple[str, list[float]]] = {
    "cosine": (
        sparseml(function("cosine", 0, 12, 0.5, 0.1)),
        [half_cosine(0.5, 0.1, step / 120) for step in range(120)],
    ),
    "both along a cosine": (
        sparseml(function("cosine", 0, 2, 0.1, 0.5), function("cosine", 2, 12, 0.5, 0.0)),
        [half_cosine(0.1, 0.5, step / 20) for step in range(20)]
        + [half_cosine(0.5, 0.0, step / 100) for step in range(100)],
    ),
    "from a rate above 0": (
        sparseml(function("linear", 0, 2, 0.1, 0.5), function("linear", 2, 12, 0.5, 0.1)),
        [0.1 + 0.4 * step / 20 for step in range(20)] + [0.5 - 0.4 * step / 100 for step in range(100)],
    ),
    "StepLR": (
        sparseml(scheduled("StepLR", step_size=5, gamma=0.5)),
        by_torch(lambda optimizer: lr_scheduler.StepLR(optimizer, 50, 0.5), 120),
    ),
    "MultiStepLR": (
        sparseml(scheduled("MultiStepLR", milestones=[4, 8], gamma=0.1)),
        by_torch(lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [40, 80], 0.1), 120),
    ),
    "ExponentialLR": (
        sparseml(scheduled("ExponentialLR", gamma=0.9)),
        by_torch(lambda optimizer: lr_scheduler.StepLR(optimizer, 10, 0.9), 120),
    ),
    "CosineAnnealingWarmRestarts": (
        sparseml(scheduled("CosineAnnealingWarmRestarts", cycle_epochs=4, lr_min=0.05)),
        by_torch(lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 4, 1, 0.05), 120, 10),
    ),
    "longer and longer cycles": (
        sparseml(scheduled("CosineAnnealingWarmRestarts", cycle_epochs=4, lr_min=0.05, T_mult=2)),
        by_torch(lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 4, 2, 0.05), 120, 10),
    ),
    "steps after a rise": (
        sparseml(function("linear", 0, 2, 0.0, 0.5), *(constant(2 + 4 * n, 0.5 / 5**n) for n in range(3))),
        [step / 40 for step in range(20)] + [0.5 / 5 ** (step // 40) for step in range(100)],
    ),
    "a constant rate": (sparseml(constant(0, 0.5)), [0.5] * 120),
}


@pytest.mark.parametrize("name", EXACT)
def test_rates_are_those_of_the_source_at_every_step(tmp_path: Path, name: str) -> None:
    text, expected = EXACT[name]
    made = convert_file(written(tmp_path, text), GIVEN)
    values = read(made.text)
    assert rates_of(values) == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert not made.notes.differs
    assert not made.notes.left_out


@pytest.mark.parametrize(
    ("modifiers", "said"),
    [
        ([scheduled("MultiStepLR", milestones=[4, 9], gamma=0.1)], "lr_class = 'MultiStepLR': a recipe cannot"),
        ([scheduled("StepLR", step_size=5)], "lr_class = 'StepLR': a recipe cannot"),
        ([scheduled("StepLR", step_size=5, gamma=1e200)], "lr_class = 'StepLR': a recipe cannot"),
        ([scheduled("CosineAnnealingWarmRestarts", cycle_epochs=4, lr_min=0, T_mult=10**40)], "Restarts': a recipe"),
        ([scheduled("StepLR", step_size=0, gamma=0.1)], "lr_class = 'StepLR': a recipe cannot"),
        ([scheduled("CyclicLR")], "lr_class = 'CyclicLR': a recipe cannot"),
        ([scheduled("CosineAnnealingWarmRestarts", cycle_epochs=5, lr_min=0)], "WarmRestarts': a recipe cannot"),
        ([scheduled("StepLR", step_size=5, gamma=0.5, colour=1)], "lr_kwargs.colour = 1: not known"),
        ([function("linear", 0, 2, 0, 0.5), function("cosine", 2, 12, 0.5, 0)], "lr_func = 'linear': the rise follows"),
        ([function("cosine", 0, 2, 0, 0.5), function("linear", 2, 12, 0.5, 0)], "lr_func = 'cosine': the rise follows"),
        ([function("linear", 0, 6, 0.5, 0.1), function("cosine", 6, 12, 0.5, 0.1)], "'cosine': a recipe cannot"),
        ([constant(0, 0.5), constant(6, 0.6)], "learning_rate = 0.6: a recipe cannot"),
        ([constant(0, 0.5), constant(2, 0.1)], "learning_rate = 0.1: a recipe cannot"),
    ],
)  # fmt: skip
def test_rates_that_no_recipe_has_are_named_with_their_line(
    tmp_path: Path, modifiers: list[str], said: str
) -> None:
    text = sparseml(*modifiers)
    notes = convert_file(written(tmp_path, text), GIVEN).notes
    [line] = {line for line, remark in (*notes.differs, *notes.left_out) if said in remark}
    value = said.split(" = ")[1].split(":")[0] if " = " in said else ""
    assert value.strip("'").rpartition("'")[2] in text.splitlines()[line - 1]


def ds_config(name: str, **params: Any) -> str:
    optimizer = {"type": "AdamW", "params": {"lr": 0.5}}
    return json.dumps({"optimizer": optimizer, "scheduler": {"type": name, "params": params}}, indent=1)


def by_deepspeed(name: str, count: int, **params: Any) -> list[float]:
    """The rate of each step of a scheduler of DeepSpeed, whose engine steps it after the optimizer."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler, found = getattr(lr_schedules, name)(optimizer, **params), []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    return found


SCHEDULERS = {
    "WarmupLR": {"warmup_min_lr": 0.1, "warmup_max_lr": 0.4, "warmup_num_steps": 5, "warmup_type": "linear"},
    "WarmupDecayLR": {"total_num_steps": 30, "warmup_max_lr": 0.4, "warmup_num_steps": 5, "warmup_type": "linear"},
    "WarmupCosineLR": {"total_num_steps": 30, "warmup_min_ratio": 0.2, "warmup_num_steps": 5, "cos_min_ratio": 0.1},
    "OneCycle": {
        "cycle_min_lr": 0.1, "cycle_max_lr": 0.4, "cycle_first_step_size": 10, "cycle_second_step_size": 20,
        "cycle_momentum": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_converted_scheduler_has_the_rates_of_deepspeed(tmp_path: Path, name: str) -> None:
    params = SCHEDULERS[name]
    given = (*GIVEN, *(["budget.steps=30"] if name == "WarmupLR" else []))
    made = convert_file(written(tmp_path, ds_config(name, **params), "ds.json"), given)
    rates, theirs = rates_of(read(made.text)), by_deepspeed(name, 31, **params)
    assert len(rates) == 30
    if name == "OneCycle":
        assert rates == pytest.approx(theirs[:30])
        assert not made.notes.differs
    elif name == "WarmupCosineLR":  # one step late in the warm-up, but not after it
        assert (rates[0], rates[5:]) == (pytest.approx(0.1), pytest.approx([0.5, *theirs[6:30]]))
    else:
        assert rates == pytest.approx(theirs[1:])
        assert any("one step earlier" in said for _, said in made.notes.differs)


def test_the_betas_of_one_cycle(tmp_path: Path) -> None:
    params = {"cycle_min_lr": 0.1, "cycle_max_lr": 0.4, "cycle_first_step_size": 10}
    recipe = check_recipe(read(convert_file(written(tmp_path, ds_config("OneCycle", **params)), GIVEN).text))
    made = recipe_timetable(recipe, STEPS)
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    scheduler, (first, second), at_peak = (
        lr_schedules.OneCycle(optimizer, **params),
        recipe.optimizer.betas,
        recipe.learning_rate.beta_at_peak,
    )
    assert at_peak is not None
    for step in range(1, 20):  # the first step differs, and is named
        scheduler.step()
        expected = (first + (at_peak - first) * made.height(step), second)
        assert optimizer.param_groups[0]["betas"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("WarmupLR", {}, "params: warmup_type: the rise is along a line, and log in the source"),
        ("WarmupCosineLR", {"warmup_type": "linear"}, "warmup_type = 'linear': the rise is along half a cosine"),
        ("WarmupDecayLR", {"total_num_steps": "auto"}, "total_num_steps = 'auto': is not a number"),
        ("WarmupDecayLR", {"warmup_max_lr": [0.1, 0.2]}, "warmup_max_lr = [0.1, 0.2]: is not a number"),
        ("OneCycle", {"cycle_max_lr": 1}, "cycle_momentum: the first step has cycle_max_mom"),
        ("OneCycle", {"cycle_max_lr": 1, "cycle_first_stair_count": 4}, "stair_count = 4: the rate changes"),
        ("OneCycle", {"cycle_max_lr": 1, "decay_step_size": 9}, "decay_step_size = 9: the run ends with the cycle"),
        ("WarmupLR", {"colour": "red"}, "params.colour = 'red': not known"),
        ("LRRangeTest", {"lr_range_test_min_lr": 0.1}, "scheduler: the recipe has the default learning rate"),
    ],
)  # fmt: skip
def test_what_of_a_scheduler_no_recipe_says(
    tmp_path: Path, name: str, params: dict[str, Any], said: str
) -> None:
    text = ds_config(name, **params)
    notes = convert_file(written(tmp_path, text, "ds.json"), GIVEN).notes
    [line] = {line for line, remark in (*notes.differs, *notes.left_out) if said in remark}
    key = said.partition(" = ")[0].rpartition(" ")[2].rpartition(".")[2] if " = " in said else "scheduler"
    assert key in text.splitlines()[line - 1] or key == "scheduler"


def test_what_is_left_to_the_trainer_gets_the_default_and_is_named(tmp_path: Path) -> None:
    """The ds_config of transformers' documentation has nothing but "auto"."""
    auto = dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")
    config = {
        "bf16": {"enabled": "auto"},
        "optimizer": {"type": "AdamW", "params": auto},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": "auto"}},
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
    }
    converted = convert_file(written(tmp_path, json.dumps(config), "ds.json"), GIVEN)
    values = read(converted.text)
    assert (values["optimizer"], values["precision"]) == ({"type": "AdamW"}, "fp32")
    assert not {"gradient_clipping", "peak"} & {*values, *values["learning_rate"]}
    said = " ".join(converted.notes.lines())
    for key in (*auto, "enabled", "gradient_clipping", "warmup_num_steps"):
        assert f"{key} = 'auto': " in said


def read(text: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(text)
    return values

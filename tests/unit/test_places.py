"""Paths in recipes: the home folder and environment variables."""

import pytest

from dsprune.errors import UserError
from dsprune.recipe import load_recipe
from dsprune.recipe.recipe import settings_of

PLACES = [
    *(
        "model.path",
        "model.tokenizer",
        "task.folder",
        "task.train",
        "task.validation",
        "distillation.teacher",
    ),
    *("distillation.store", "deepspeed", "output"),
]


@pytest.mark.parametrize("field", PLACES)
@pytest.mark.parametrize(
    ("written", "meant"),
    [("~/a b", "/home/me/a b"), ("$DATA/x", "/data/x"), ("${DATA}-2/~", "/data-2/~"), ("a/~b$5", "a/~b$5")],
)
def test_every_path_has_its_variables_replaced(
    field: str, written: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data")
    assert settings_of(load_recipe("sentiment-90", [f"{field}={written}"]))[field] == meant


@pytest.mark.parametrize("text", ["$NOWHERE_SET/runs", "${NOWHERE_SET}/runs"])
def test_a_variable_that_is_not_set_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^output: value .*: there is no environment variable .*NOWHERE_SET"):
        load_recipe("sentiment-90", [f"output={text}"])


def test_what_is_no_list_is_called_so() -> None:
    with pytest.raises(UserError, match=r"^pruning\.only: value '\*\.weight': must be a list"):
        load_recipe("sentiment-90", ["pruning.only='*.weight'"])

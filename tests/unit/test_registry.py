"""Names in recipes: every built-in name has an object, and others can be added."""

import re
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import dsprune
from dsprune.errors import UserError
from dsprune.methods.method import ShardContext
from dsprune.registry import CURVES, METHODS, SCOPES, TASKS, Registry
from dsprune.selection.groups import Scope

PACKAGE = Path(dsprune.__file__).parent
REGISTRIES = {"methods": METHODS, "curves": CURVES, "scopes": SCOPES, "tasks": TASKS}
NAMES = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry]


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_a_built_in_name_leads_to_an_object(kind: str, name: str) -> None:
    entry = REGISTRIES[kind].get(name)
    assert isinstance(entry, Scope) if kind == "scopes" else callable(entry)


def test_every_file_of_methods_is_a_method() -> None:
    files = {path.stem for path in (PACKAGE / "methods").glob("*.py")} - {"__init__", "checks", "method"}
    assert {name.replace("-", "_") for name in METHODS} == files


def test_every_table_of_tasks_is_named_with_all_its_tasks() -> None:
    tables = {
        (f"dsprune.tasks.{path.stem}", name)
        for path in (PACKAGE / "tasks").glob("*.py")
        for name in re.findall(r"^([A-Z_]+): Mapping\[str, .*Task\b\]* = \{", path.read_text(), re.MULTILINE)
    }
    listed = {
        name: f"{module}:{table}" for module, table in tables for name in vars(import_module(module))[table]
    }
    assert listed == {
        name: path for name, path in TASKS._builtin.items() if path.rpartition(":")[2].isupper()
    }


# ---- what is added


class Mine:
    absolute = False

    def scores(self, context: ShardContext) -> object:
        return context.weight


def test_code_can_register_a_name_once() -> None:
    registry = Registry("pruning.method", {"magnitude": "dsprune.methods.magnitude:Magnitude"})
    registry.register("mine", Mine)
    registry.register("mine", Mine)  # the same again, as when a notebook's cell is run again
    assert list(registry) == ["magnitude", "mine"]
    assert registry.get("mine") is Mine
    for taken in ("mine", "magnitude"):
        with pytest.raises(
            UserError, match=rf"^pruning\.method: '{taken}' is registered already: choose another"
        ):
            registry.register(taken, object())


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(
        UserError,
        match=r"^pruning\.method: there is no 'magnitud': did you mean 'magnitude'\? choose one of mag",
    ):
        METHODS.get("magnitud")
    with pytest.raises(UserError, match=r"^pruning\.curve: 'equal-work' was renamed: use 'exponential'$"):
        CURVES.check("equal-work")
    assert "magnitud" not in METHODS


def offer(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> Registry:
    """A registry with a built-in name, and with these names and objects from installed packages."""
    offered = [EntryPoint(name, value, "dsprune.methods") for name, value in points]
    monkeypatch.setattr("dsprune.registry.entry_points", lambda group: offered)
    return Registry(
        "pruning.method", {"magnitude": "dsprune.methods.magnitude:Magnitude"}, group="dsprune.methods"
    )


def test_an_installed_package_offers_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = offer(monkeypatch, ("own", f"{__name__}:Mine"), ("magnitude", f"{__name__}:Mine"))
    assert list(registry) == ["magnitude", "own"]
    assert registry.get("own") is Mine
    assert registry.get("magnitude").__module__ == "dsprune.methods.magnitude", "built-in names stay"
    with pytest.raises(UserError, match="'own' is registered already"):
        registry.register("own", object())


@pytest.mark.parametrize("value", ["no_such_module:Method", f"{__name__}:NoSuchMethod"])
def test_an_offer_that_cannot_be_imported_names_the_package(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    registry = offer(monkeypatch, ("own", value))
    registry.check("own")  # imports nothing
    with pytest.raises(UserError) as refused:
        registry.get("own")
    for part in ("pruning.method: 'own': ", value, "cannot be imported", "install the package again"):
        assert part in str(refused.value)

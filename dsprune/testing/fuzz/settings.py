"""Damaged and invalid settings: recipes, overrides, suites and ds_configs."""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deepspeed.runtime.config import DeepSpeedConfig

from dsprune.commands.suite.definition import shipped_suites
from dsprune.commands.suite.suite import Choice, parts_of
from dsprune.recipe import Recipe, dump_recipe, load_recipe, shipped_recipes
from dsprune.recipe.recipe import settings_of
from dsprune.schedule import build_timetable
from dsprune.testing.fuzz.attempt import Attempt, Target, named
from dsprune.testing.fuzz.damage import ABSURD, damage_file, damage_json
from dsprune.utils.installation import shipped_folder, shipped_names
from dsprune.zero.config import load_ds_config, resolve_ds_config
from dsprune.zero.schema import DsConfig, OptimizerParams

__all__ = ["SETTINGS_TARGETS", "damage_yaml"]

TEXTS = (
    "yes", "no", "on", "~", "null", "true", "'1'", "010", "0x1F", "1:30", "1_000", "1e-4", "1e0", "5e-1", "1e400",
    "-1", "0", ".nan", ".inf", "-.inf", "9" * 30, "9" * 5000, "1e30", "0.9999999999", "1e-300", "2024-01-01", "=",
    "!!int ''", "!!bool x", "!!python/name:os.system", "!x y", "&a [*a]", "*a", "{a: 1, a: 2}", "[[[[", "[" * 1000,
    "{" * 1000, '"a\\0b"', '"\\e[2J"', '"a\\nb"', "'\u202e'", "a\tb", "\x00", "\ud800", "ü", "", " ", "#", "a: b",
    "- x", "%", "<<", "10 %", "1e1 epochs", f"{'9' * 400} steps", "-1 steps", "1.5 steps", "0 epochs", "{teacher}",
    "100000000000000", "[]", "[x]", "{}", "{first: 1, final: 2}", "{first: 1}", "{sparsity: {sparsity}}", "x" * 10_000,
    "|\n  a\n  b", "? [a]\n: b",
)  # fmt: skip
"""Texts that are difficult for YAML readers or fields of a recipe."""


class _Recipe:
    """A recipe file with damaged bytes or absurd values."""

    def attempt(self, folder: Path, rng: random.Random) -> Attempt:
        name = rng.choice(shipped_recipes())
        path = folder / f"{name}.yaml"
        what = damage_yaml(shipped_folder("recipes") / path.name, path, rng)
        return Attempt(what, [named(lambda: _use(load_recipe(str(path)), folder), "load_recipe")])


class _Override:
    """A recipe with absurd overrides."""

    def attempt(self, folder: Path, rng: random.Random) -> Attempt:
        name = rng.choice(shipped_recipes())
        overrides = [f"{rng.choice(_KEYS)}={_text(rng)}" for _ in range(rng.randint(1, 3))]
        step = named(lambda: _use(load_recipe(name, overrides), folder), "load_recipe")
        return Attempt(f"{name} {overrides!r:.200}", [step])


class _Suite:
    """A suite file with damaged bytes or absurd values, and absurd choices from it."""

    def attempt(self, folder: Path, rng: random.Random) -> Attempt:
        name = rng.choice(shipped_suites())
        path = folder / f"{name}.yaml"
        what = damage_yaml(shipped_folder("suites") / path.name, path, rng)
        sparsities = tuple(
            rng.choice((0.5, 0.9, 0, 1, 1.5, -1, float("nan"), 1e-300)) for _ in range(rng.randrange(2))
        )
        choice = Choice(str(path), "sentiment-90", sparsities=sparsities, output=folder / "out")
        return Attempt(f"{what} {sparsities}", [named(lambda: _parts(choice), "parts_of")])


class _DsConfig:
    """A ds_config with damaged bytes, absurd values, and keys of any section."""

    def attempt(self, folder: Path, rng: random.Random) -> Attempt:
        source = shipped_folder("ds_configs") / f"{rng.choice(shipped_names('ds_configs'))}.json"
        path = folder / source.name
        path.write_bytes(source.read_bytes())
        how = rng.randrange(4)
        what = {0: damage_file, 1: damage_json}.get(how, _add_keys)(path, rng)
        return Attempt(what, [named(lambda: _resolve(path), "resolve_ds_config")])


SETTINGS_TARGETS: Mapping[str, Callable[[Path], Target]] = {
    "recipe": lambda folder: _Recipe(),
    "override": lambda folder: _Override(),
    "suite": lambda folder: _Suite(),
    "ds_config": lambda folder: _DsConfig(),
}


def _use(recipe: Recipe, folder: Path) -> None:
    """Use a recipe without a model: plan it, write it and read it."""
    written = folder / "written.yaml"
    written.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(str(written)) == recipe
    build_timetable(recipe.pruning, recipe.learning_rate, recipe.budget, 100)


def _parts(choice: Choice) -> None:
    first, then = parts_of(choice)
    assert all(run.overrides for part in (*first, *then) for run in part.runs)


def _resolve(path: Path) -> None:
    """Resolve a ds_config; an accepted one must also be harmless as DeepSpeed reads it."""
    config = resolve_ds_config(load_ds_config(str(path)), load_recipe("sentiment-90"), 1)
    read = DeepSpeedConfig(config)
    zero = read.zero_config
    on = {
        "hpZ": zero.zero_hpz_partition_size > 1,
        "quantized": zero.zero_quantized_weights or zero.zero_quantized_gradients,
        "round robin": zero.round_robin_gradients,
        "ZenFlow": zero.zenflow is not None,
        "autocast": read.torch_autocast_enabled,
        "DeepCompile": read.compile_config.deepcompile,
        "data efficiency": read.data_efficiency_enabled,
        "tensor parallelism": read.tensor_parallel_config.autotp_size > 1,
    }
    assert not any(on.values()), on
    assert isinstance(read.gradient_clipping, int | float)
    assert read.gradient_clipping >= 0


def damage_yaml(source: Path, path: Path, rng: random.Random) -> str:
    """Copy a YAML file with damage to its bytes, or with other texts for some of its values or lines."""
    path.write_bytes(source.read_bytes())
    if rng.random() < 0.3:
        return damage_file(path, rng)
    lines = path.read_text(encoding="utf-8").splitlines()
    done = []
    for _ in range(rng.randint(1, 3)):
        number = rng.randrange(len(lines))
        key, colon, _ = lines[number].partition(":")
        line = rng.choice(
            (f"{key}{colon} {_text(rng)}", lines[rng.randrange(len(lines))], f"{lines[number]}\n{key}: 1")
        )
        lines[number] = line
        done.append(line)
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    return f"{source.name}: {done!r:.200}"


def _text(rng: random.Random) -> str:
    return rng.choice(TEXTS) if rng.random() < 0.7 else json.dumps(rng.choice(ABSURD))


def _add_keys(path: Path, rng: random.Random) -> str:
    """Set some keys of a ds_config, of any section, to absurd values."""
    config = json.loads(path.read_text())
    done = []
    for _ in range(rng.randint(1, 3)):
        *sections, name = rng.choice(_DS_KEYS)
        section = config
        for key in sections:
            inner = section.get(key)
            section[key] = inner if isinstance(inner, dict) else {}
            section = section[key]
        section[name] = rng.choice((*ABSURD, "true", "on", "2", 2, "cpu", "auto", 0.5))
        done.append(f"{'.'.join((*sections, name))}={section[name]!r:.40}")
    path.write_text(json.dumps(config))
    return "; ".join(done)


def _recipe_keys() -> list[str]:
    inner = [key for name in shipped_recipes() for key in settings_of(load_recipe(name))]
    return sorted({*Recipe.model_fields, *inner, "pruning.evnts", "model.layers.0", "x", "a.b.c.d"})


def _ds_keys() -> list[tuple[str, ...]]:
    keys: list[tuple[str, ...]] = []
    for name, field in DsConfig.model_fields.items():
        keys.append((name,))
        inner: Any = getattr(field.annotation, "model_fields", {})
        keys += [(name, key) for key in inner]
    keys += [("optimizer", "params", key) for key in (*OptimizerParams.model_fields, "foo")]
    offload = ("device", "ratio", "super_offload", "pin_memory", "nvme_path")
    keys += [("zero_optimization", "offload_optimizer", key) for key in offload]
    return [
        *keys,
        ("FP16",),
        ("amp",),
        ("elasticity",),
        ("optimizer", "x"),
        ("zero_optimization", "zeropp_loco_param"),
    ]


_KEYS = _recipe_keys()
_DS_KEYS = _ds_keys()

from pathlib import Path

import pytest

from dsprune.recipe import load_recipe
from dsprune.utils.installation import shipped_names
from dsprune.zero.config import load_ds_config, resolve_ds_config

NAMES = shipped_names("ds_configs")


def test_the_shipped_configs_are_the_four_stages_and_offload() -> None:
    assert NAMES == ["offload", "zero0", "zero1", "zero2", "zero3"]
    stages = {name: load_ds_config(name)["zero_optimization"]["stage"] for name in NAMES}
    assert stages == {"zero0": 0, "zero1": 1, "zero2": 2, "zero3": 3, "offload": 2}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_fills_every_auto_of_a_shipped_config(name: str, precision: str) -> None:
    recipe = load_recipe("sentiment-90", [f"precision={precision}", "optimizer.weight_decay=0.02"])
    config = resolve_ds_config(load_ds_config(name), recipe, world_size=2)
    assert "auto" not in str(config)
    assert config["optimizer"]["params"]["weight_decay"] == 0.02
    assert [kind for kind in ("bf16", "fp16") if config[kind]["enabled"]] == [precision] * (
        precision != "fp32"
    )


def test_a_config_is_found_by_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert all(load_ds_config(name) for name in NAMES)

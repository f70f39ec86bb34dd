"""The files in the README exist, and its commands run."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from dsprune.commands.cli import app
from dsprune.recipe import load_recipe, shipped_recipes
from dsprune.testing.pool import RankPool
from tests.system.readme import README, blocks, run_the_loop


def test_the_loop_reaches_its_target(tmp_path: Path) -> None:
    with RankPool(1) as pool:
        [result] = pool.run(1, run_the_loop, str(tmp_path))
    assert result["sparsity_prunable"] == pytest.approx(0.9)
    assert result["step"] == 10 * 3


def test_every_command_that_it_names_exists() -> None:
    shown = set(re.findall(r"^dsprune ([\w-]+)", "\n".join(blocks("")), flags=re.MULTILINE))
    assert shown == set(typer.main.get_group(app).commands)


def commands() -> Iterator[list[str]]:
    """The arguments of `dsprune` in the commands of the README and the guides."""
    for file in (README, *README.parent.glob("docs/*.md")):
        for line in "\n".join(blocks("bash", file)).replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "dsprune" in words and (words[0] == "dsprune" or "--module" in words):
                yield words[words.index("dsprune") + 1 :]


@pytest.mark.parametrize("words", list(commands()), ids=shlex.join)
def test_a_command_is_one_that_dsprune_understands(words: list[str]) -> None:
    """Options, types, shipped recipes and their values; nothing is run."""
    command = typer.main.get_command(app).commands[words[0]]
    with command.make_context(words[0], words[1:]) as context:
        recipe, overrides = context.params.get("recipe"), context.params.get("overrides") or []
    if recipe in shipped_recipes():
        load_recipe(recipe, overrides)
    else:
        assert recipe is None or recipe.isupper() or "/" in recipe or recipe.endswith(".yaml"), (
            "a place to fill in, or a file"
        )


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    missing = [link for link in links if "://" not in link and not (README.parent / link).exists()]
    assert not missing

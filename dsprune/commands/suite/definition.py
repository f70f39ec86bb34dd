"""The definition of a suite: recipes, sparsities, and methods, each of which changes a few values of a recipe."""

import shlex
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator

from dsprune.errors import UserError
from dsprune.recipe.section import Positive, Section, Sparsity, Text, describe
from dsprune.utils.documents import read_document, read_yaml
from dsprune.utils.installation import find_shipped, shipped_folder, shipped_names
from dsprune.utils.text import did_you_mean, short

__all__ = [
    "Method",
    "Published",
    "Suite",
    "check_change",
    "load_suite",
    "published_results",
    "shipped_suites",
]

CHOSEN = {
    "name": "rename the method",
    "seed": "use --seeds",
    "output": "use --output",
    "pruning.sparsity": "use --sparsity",
}
"""The recipe values that a suite chooses for each run, with the way to choose others."""


@cache
def published_results() -> dict[str, Any]:
    """Return published results to compare with, by name."""
    path = shipped_folder("suites") / "published.yaml"
    results: dict[str, Any] = read_yaml(path.read_bytes(), str(path))
    return results


def _is_published(name: str) -> str:
    known = published_results()
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(f"there are no such published results: {hint}choose from {', '.join(known)}")
    return name


Published = Annotated[Text, AfterValidator(_is_published)]
"""Name of published results."""


def check_change(text: str) -> str:
    """Check that a change to a recipe, `key=value`, leaves what the suite chooses for each run; return it.

    Raises:
        ValueError: the suite would replace the value, or the value would replace that of the suite.
    """
    key = text.partition("=")[0].strip()
    if key in CHOSEN and "{sparsity}" not in text:
        raise ValueError(f"a suite chooses {key} for each run: leave it out, and {CHOSEN[key]}")
    return text


def _is_command(text: str) -> str:
    if not shlex.split(text):  # which raises ValueError too
        raise ValueError("names no recipe: write a recipe and values to change, as on the command line")
    return text


class Method(Section):
    """A method: changes to a recipe."""

    base: Text | None = None
    """Name of the method whose changes are applied first."""

    set: tuple[Annotated[Text, AfterValidator(check_change)], ...] = ()
    """Recipe values, as on the command line. They may hold placeholders: `{teacher}` is the model that was trained
    densely with the same seed, `{store}` the store of its logits, `{calibrated}` the temperature that calibrating
    the store recommends, and `{sparsity}` the run's target."""

    components: tuple[Text, ...] = ()
    """Components of the model to prune too, by their names in `dsprune analyze`; components that the model lacks are
    ignored."""

    budget: Positive = 1.0
    """Length of the run as a multiple of the recipe's."""

    iterative: Literal["weights", "rate"] | None = None
    """Prune in rounds: after each complete training prune a fifth of the remaining weights, then train again from the
    weights that the first training began with (`weights`, the lottery ticket) or from the trained ones (`rate`)."""

    reference: bool = False
    """Whether a report compares the other methods with this one."""


class Suite(Section):
    """A grid of runs."""

    title: Text
    recipes: dict[
        Annotated[str, Field(pattern=r"^\w[\w.-]*$")], Annotated[Text, AfterValidator(_is_command)]
    ] = Field(default_factory=dict)
    """Recipes to run the suite on, by folder name: a recipe and values to change, as on the command line. A recipe
    that is named on the command line replaces them."""

    sparsity: tuple[Sparsity, ...] = Field(min_length=1)
    """Targets of the methods that prune."""

    convention: Literal["prunable", "matrices"] = "prunable"
    """What targets are fractions of: the weights that a method prunes, or all matrices of the model. With `matrices`
    a method that leaves some matrices dense prunes the others more, so that all methods have as many zeros."""

    methods: dict[Text, Method] = Field(min_length=1)
    """The methods by name."""

    published: tuple[Published, ...] = ()
    """Names of results in published.yaml to show in the report."""

    @field_validator("methods")
    @classmethod
    def _bases_come_before(cls, methods: dict[str, Method]) -> dict[str, Method]:
        names = list(methods)
        for place, name in enumerate(names):
            base = methods[name].base
            if base is not None and base not in names[:place]:
                raise ValueError(f"there is no method {base!r} before {name!r}: its base must come first")
        return methods

    def changes(self, name: str) -> Method:
        """Return a method merged with its base."""
        method = self.methods[name]
        if method.base is None:
            return method
        base = self.changes(method.base)
        merged = {"set": (*base.set, *method.set), "components": (*base.components, *method.components)}
        return method.model_copy(update=merged)


def shipped_suites() -> list[str]:
    """Return the names of the suites that come with the package."""
    return [name for name in shipped_names("suites") if name != "published"]


def load_suite(name_or_path: str) -> Suite:
    """Read a suite from a YAML file, or a shipped one by its name.

    Raises:
        UserError: there is no such suite, or it is invalid: one line with all its problems.
    """
    if (path := find_shipped("suites", name_or_path)) is None:
        hint = did_you_mean(name_or_path, shipped_suites())
        raise UserError(
            f"suite {name_or_path!r}: no such file: {hint}the suites are {', '.join(shipped_suites())}"
        )
    values = read_yaml(read_document(path), name_or_path)
    if not isinstance(values, dict):
        raise UserError(f"{name_or_path}: value {short(values)}: a suite is a mapping of keys to values")
    try:
        return Suite.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{name_or_path}: {describe(error, Suite)}") from None

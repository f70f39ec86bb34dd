"""What a suite is made of: recipes, sparsities, and methods, each a few changes to a recipe."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from dsprune.errors import UserError
from dsprune.recipe.loading import describe
from dsprune.recipe.sections import Section, Text
from dsprune.utils.shipped import shipped_folder, shipped_names
from dsprune.utils.text import did_you_mean

__all__ = ["Method", "Suite", "load_suite", "shipped_suites"]


class Method(Section):
    """One way to train."""

    base: Text | None = None
    """Name of the method whose changes come first."""

    set: tuple[Text, ...] = ()
    """Recipe values, as on the command line. `{teacher}`, `{store}`, `{calibrated}` and `{sparsity}` are the model
    that was trained densely with the same seed, the store of its answers, the temperature that these recommend,
    and the run's target."""

    components: tuple[Text, ...] = ()
    """Components of the model that are pruned too, as `dsprune analyze` calls them; those it lacks do not count."""

    budget: Annotated[float, Field(gt=0)] = 1.0
    """Length of the run as a multiple of the recipe's."""

    iterative: Literal["weights", "rate"] | None = None
    """Prune a fifth of what is left after each whole training, again and again; then go on from the weights that the
    first training began with (`weights`, the lottery ticket) or from those at hand (`rate`)."""

    reference: bool = False
    """What a report compares the others with."""


class Suite(Section):
    """A grid of runs."""

    title: Text
    recipes: dict[Text, Text] = Field(default_factory=dict)
    """Recipes to run it on, unless one is named on the command line: for each a folder's name, and the recipe's with
    values to change, as on a command line."""

    sparsity: tuple[Annotated[float, Field(gt=0, lt=1)], ...]
    """Targets of the methods that prune."""

    convention: Literal["prunable", "matrices"] = "prunable"
    """What targets are fractions of: the weights that a method prunes, or all matrices of the model. Then a method
    that leaves some dense prunes the others harder, so that as many weights are zero."""

    methods: dict[Text, Method] = Field(min_length=1)
    published: tuple[Text, ...] = ()
    """Names of published results to show beside, in published.yaml."""

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
        """A method with what it takes from its base."""
        method = self.methods[name]
        if method.base is None:
            return method
        base = self.changes(method.base)
        merged = {"set": (*base.set, *method.set), "components": (*base.components, *method.components)}
        return method.model_copy(update=merged)


def shipped_suites() -> list[str]:
    """Names of the suites that come with the package."""
    return [name for name in shipped_names("suites") if name != "published"]


def load_suite(name_or_path: str) -> Suite:
    """Read a suite from a YAML file, or by name one that is shipped.

    Raises:
        UserError: there is none, or one line with every problem of it.
    """
    path = Path(name_or_path)
    if path.is_file():
        text = path.read_bytes()
    elif name_or_path in shipped_suites():
        text = shipped_folder("suites").joinpath(f"{name_or_path}.yaml").read_bytes()
    else:
        hint = did_you_mean(name_or_path, shipped_suites())
        raise UserError(
            f"suite {name_or_path!r}: no such file: {hint}the suites are {', '.join(shipped_suites())}"
        )
    try:
        return Suite.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UserError(f"{name_or_path}: not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise UserError(f"{name_or_path}: {describe(error, Suite)}") from None

"""How a model was made: what its card says of its origin."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dsprune.recipe import Recipe

__all__ = ["Made"]


@dataclass(frozen=True)
class Made:
    """How a model was made.

    Attributes:
        recipe: the resolved recipe; None = unknown.
        command: the command; None = a user's script.
        metrics: the metrics of this model by name; empty if it was not evaluated.
        num_examples: number of evaluated examples; None = unknown.
        audit: sentences on the result of the audit; None = not audited.
        versions: version of each package, by name.
    """

    recipe: Recipe | None = None
    command: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    num_examples: int | None = None
    audit: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

"""A recipe for another target: what it says by hand stretches as the law does, in proportion to work."""

from dsprune.pure.recipe import Budget, Pruning, Recipe, Span
from dsprune.pure.schedule.law import work

__all__ = ["scaled_to"]


def scaled_to(recipe: Recipe, target: float) -> Recipe:
    """The recipe with another target sparsity, its schedule stretched.

    With the ratio r of the targets' work, lengths that are counted in epochs or steps become r times as long,
    the number of events r times as many, and a first event that did a share of the old work does the same share
    of the new. Distances between events and lengths in per cent stay, and so does what the law gives anyway.

    Args:
        recipe: one that prunes.
        target: fraction of zeros.
    """
    pruning = recipe.pruning
    assert pruning is not None
    ratio = work(target) / work(pruning.sparsity)
    budget = recipe.budget.model_copy(update=_lengths(recipe.budget, ratio))
    changed = {"sparsity": target, **_lengths(pruning, ratio)}
    if pruning.first:
        changed["first"] = 1 - (1 - pruning.first) ** ratio
    if pruning.events is not None:
        changed["events"] = max(2, round(ratio * pruning.events))
    # Validated anew: the parts must still go together.
    values = recipe.model_dump()
    values["pruning"] = {**pruning.model_dump(), **changed}
    values["budget"] = budget.model_dump()
    return Recipe.model_validate(values)


def _lengths(section: Budget | Pruning, ratio: float) -> dict[str, object]:
    if isinstance(section, Budget):
        return {
            "epochs": None if section.epochs is None else ratio * section.epochs,
            "steps": None if section.steps is None else max(1, round(ratio * section.steps)),
        }
    return {"start": _span(section.start, ratio), "end": _span(section.end, ratio)}


def _span(span: Span | None, ratio: float) -> Span | None:
    if span is None or span.unit == "%":
        return span
    amount = ratio * span.amount
    return Span(float(round(amount)) if span.unit == "steps" else amount, span.unit)

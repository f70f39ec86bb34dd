"""Check that the settings of a recipe fit its pruning method."""

from dsprune.errors import UserError
from dsprune.methods.method import CompensatingMethod, RegrowingMethod, find_method
from dsprune.recipe import Pruning

__all__ = ["check_pruning"]


def check_pruning(pruning: Pruning) -> None:
    """Check that the settings of a recipe fit its method.

    Raises:
        UserError: a setting has no meaning for the method, or the method needs another one.
    """
    method = find_method(pruning.method)
    regrows = issubclass(method, RegrowingMethod)
    if regrows and pruning.curve == "one-shot":
        raise UserError(
            f"pruning.curve: 'one-shot' has one mask update, and {pruning.method!r} lets weights grow back at all but "
            f"the last: choose another curve, such as constant"
        )
    if regrows and pruning.curve == "alternating":
        raise UserError(
            f"pruning.curve: 'alternating' lets all weights grow back in turn, and {pruning.method!r} some at each "
            f"mask update: choose constant, or another method, such as magnitude"
        )
    if regrows and pruning.pattern != "unstructured":
        raise UserError(
            f"pruning.pattern: value {pruning.pattern}: {pruning.method!r} lets single weights grow back, which breaks "
            f"the pattern: use unstructured, or a method that lets none grow back, such as fisher"
        )
    if not regrows and pruning.curve == "constant":
        raise UserError(
            f"pruning.curve: with 'constant' only the first mask update prunes, and {pruning.method!r} lets no weight "
            f"grow back: use one-shot"
        )
    if not regrows and pruning.drop is not None:
        raise UserError(
            f"pruning.drop: value {pruning.drop}: {pruning.method!r} lets no weight grow back: leave it out"
        )
    if pruning.first_method is not None:
        _check_first(pruning.first_method, pruning.method, regrows=regrows)
    compensates = issubclass(method, CompensatingMethod)
    if compensates and pruning.pattern != "unstructured":
        raise UserError(
            f"pruning.pattern: value {pruning.pattern}: {pruning.method!r} scores and moves single weights: use "
            f"unstructured, or another method, such as fisher"
        )
    for name in ("damping", "recomputations"):
        if not compensates and (value := getattr(pruning, name)) is not None:
            raise UserError(
                f"pruning.{name}: value {value}: {pruning.method!r} has no use for it: leave it out"
            )
    first = find_method(pruning.first_method or pruning.method)
    accumulators = (*first.accumulators, *method.accumulators)
    sums = method.reads_inputs or not all(kept.whole_run for kept in accumulators)
    if pruning.window is not None and not sums:
        raise UserError(
            f"pruning.window: value {pruning.window}: {pruning.method!r} does not accumulate from one mask update to "
            f"the next: leave it out"
        )


def _check_first(name: str, then: str, *, regrows: bool) -> None:
    """Check the method of the first mask update."""
    first = find_method(name)
    if not regrows:
        raise UserError(
            f"pruning.first_method: value {name}: {then!r} lets no weight grow back, and scores every mask update: "
            f"leave it out"
        )
    if issubclass(first, RegrowingMethod) or first.block > 1 or first.needs or first.reads_inputs:
        raise UserError(
            f"pruning.first_method: value {name}: the first mask is made by a method that scores single weights, reads "
            f"nothing of the optimizer and lets none grow back: use snip, magnitude or random"
        )

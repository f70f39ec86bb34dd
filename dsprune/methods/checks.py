"""Check that the settings of a recipe fit its pruning method."""

from dsprune.errors import UserError
from dsprune.methods.method import CompensatingMethod, Method, RegrowingMethod, find_method
from dsprune.recipe import Pruning

__all__ = ["check_pruning"]


def check_pruning(pruning: Pruning) -> None:
    """Check that the settings of a recipe fit its method.

    Raises:
        UserError: a setting has no meaning for the method, or the method needs another one.
    """
    method = find_method(pruning.method)
    if issubclass(method, RegrowingMethod):
        _check_regrowing(pruning)
    else:
        _check_keeping(pruning)
    if issubclass(method, CompensatingMethod):
        if pruning.pattern != "unstructured":
            raise UserError(
                f"pruning.pattern: value {pruning.pattern}: {pruning.method!r} scores and moves single weights: use "
                f"unstructured, or another method, such as fisher"
            )
    else:
        for name in ("damping", "recomputations"):
            if (value := getattr(pruning, name)) is not None:
                raise UserError(
                    f"pruning.{name}: value {value}: {pruning.method!r} does not use it: leave it out"
                )
    _check_window(pruning, method)


def _check_regrowing(pruning: Pruning) -> None:
    """Check the settings of a method that lets weights grow back."""
    if pruning.curve == "one-shot":
        raise UserError(
            f"pruning.curve: 'one-shot' has one mask update, and {pruning.method!r} lets weights grow back at all "
            f"others but the last: choose another curve, such as constant"
        )
    if pruning.curve == "alternating":
        raise UserError(
            f"pruning.curve: 'alternating' lets all weights grow back in turn, but {pruning.method!r} some at each "
            f"mask update: choose constant, or another method, such as magnitude"
        )
    if pruning.pattern != "unstructured":
        raise UserError(
            f"pruning.pattern: value {pruning.pattern}: {pruning.method!r} lets single weights grow back, which breaks "
            f"the pattern: use unstructured, or a method that lets none grow back, such as fisher"
        )
    if pruning.first_method is not None:
        _check_first(pruning.first_method)


def _check_keeping(pruning: Pruning) -> None:
    """Check the settings of a method that keeps pruned weights pruned."""
    if pruning.curve == "constant":
        raise UserError(
            f"pruning.curve: with 'constant' only the first mask update prunes, and {pruning.method!r} lets no weight "
            f"grow back: use one-shot"
        )
    if pruning.drop is not None:
        raise UserError(
            f"pruning.drop: value {pruning.drop}: {pruning.method!r} lets no weight grow back: leave it out"
        )
    if pruning.first_method is not None:
        raise UserError(
            f"pruning.first_method: value {pruning.first_method}: {pruning.method!r} lets no weight grow back, and "
            f"scores every mask update: leave it out"
        )


def _check_first(name: str) -> None:
    """Check the method of the first mask update."""
    first = find_method(name)
    if issubclass(first, RegrowingMethod) or first.block > 1 or first.needs or first.reads_inputs:
        raise UserError(
            f"pruning.first_method: value {name}: the first mask is made by a method that scores single weights, reads "
            f"nothing of the optimizer and lets none grow back: use snip, magnitude or random"
        )


def _check_window(pruning: Pruning, method: type[Method]) -> None:
    """Check that a mask update uses the window of steps."""
    first = find_method(pruning.first_method or pruning.method)
    accumulators = (*first.accumulators, *method.accumulators)
    sums = method.reads_inputs or not all(kept.whole_run for kept in accumulators)
    if pruning.window is not None and not sums:
        raise UserError(
            f"pruning.window: value {pruning.window}: {pruning.method!r} does not accumulate from one mask update to "
            f"the next: leave it out"
        )

"""Choose the weights to prune: the matrices of the blocks, adjusted by patterns over names.

The structure of the model determines the matrices (dsprune/model/blocks.py), without a list of model families. The
parameters that stay dense inside the blocks are returned too, with the reasons, so that they can be reported.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod

from torch import nn

from dsprune.errors import UserError
from dsprune.model.blocks import NO_MATRICES, block_matrices, is_vector, matrices_outside
from dsprune.model.compiled import plain_name
from dsprune.model.orientation import has_inputs_first
from dsprune.model.patterns import names_of, parameters_matching, patterns_of, values_by_pattern
from dsprune.model.shapes import ShapeOf, plain_shape
from dsprune.model.shard import PrunableTensor
from dsprune.model.wrappers import check_plain
from dsprune.utils.text import percent

__all__ = ["Choice", "DenseMatrix", "choose_weights", "dense_groups", "describe_dense", "describe_outside"]

UNASKED = 0.01
"""Fraction of the blocks' weights that may stay dense for a reason other than the recipe or their kind."""

MANY, NAMED = 0.1, 4
"""Smallest fraction of the matrices' weights outside of the blocks to report, and the number of groups to name."""

EXCLUDED, OTHERS, OUTSIDE = "excluded", "not in pruning.only", "outside of the blocks"


@dataclass(frozen=True)
class DenseMatrix:
    """A matrix, or another parameter inside the blocks, that is not pruned.

    Attributes:
        name: its name in the model's `named_parameters()`.
        shape: full shape.
        reason: why it stays dense, such as `router`.
    """

    name: str
    shape: tuple[int, ...]
    reason: str

    @property
    def numel(self) -> int:
        """Number of weights."""
        return prod(self.shape)


@dataclass(frozen=True)
class Choice:
    """The weights that a recipe prunes in a model, and the parameters that stay dense.

    Attributes:
        tensors: the weights to prune, in the order of `named_parameters()`.
        dense: the other matrices and tables inside the blocks, in the same order.
        outside: the matrices outside of the blocks that the recipe does not name, in the same order.
        num_block_weights: number of weights of all matrices and tables inside the blocks.
    """

    tensors: tuple[PrunableTensor, ...]
    dense: tuple[DenseMatrix, ...]
    outside: tuple[DenseMatrix, ...]
    num_block_weights: int


def choose_weights(
    model: nn.Module,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    sparsities: Mapping[str, float] | None = None,
    only: Sequence[str] = (),
    *,
    shape_of: ShapeOf = plain_shape,
) -> Choice:
    """Choose the weights to prune; a tied weight counts once, under its first name.

    A pattern must match the complete name, or one of the names of a tied weight.

    Args:
        model: the model; its tensors may be meta.
        include: glob patterns of parameters to add to the default set.
        exclude: glob patterns of parameters to remove from it, applied after `include`.
        sparsities: target sparsity by glob pattern; the first pattern that matches a weight counts.
        only: glob patterns of matrices that replace the default set; none = the default set.
        shape_of: returns the full shape of a parameter, which may be partitioned.

    Raises:
        UserError: a pattern has no effect, a weight cannot be pruned, more than 1 % of the blocks' weights would stay
            dense unasked, or there is nothing to prune.
    """
    names = names_of(model)
    rules = _rules(model, names, include, exclude, only, shape_of)
    check_plain(model, rules.candidates.keys() - rules.excluded)
    inputs_first = _inputs_first(model)
    chosen, dense, outside = {}, [], []
    for name, parameter in model.named_parameters():
        key = id(parameter)
        tensor = PrunableTensor(plain_name(name), shape_of(parameter), inputs_first=key in inputs_first)
        if key in rules.named:
            _check_can_be_pruned(tensor, parameter)
        if rules.prunes(parameter):
            chosen[key] = tensor
        elif key in rules.kinds:
            dense.append(DenseMatrix(tensor.name, tensor.shape, rules.reason(parameter)))
        elif key in rules.outside:
            outside.append(DenseMatrix(tensor.name, tensor.shape, OUTSIDE))
    num_weights = sum(matrix.numel for matrix in dense)
    num_weights += sum(tensor.numel for key, tensor in chosen.items() if key in rules.kinds)
    tensors = _with_targets(chosen, names, sparsities or {})
    choice = Choice(tensors, tuple(dense), tuple(outside), num_weights)
    _check_asked(choice)
    _check_not_empty(choice, model)
    return choice


@dataclass(frozen=True)
class _Rules:
    """What structure and patterns say of the parameters of a model, by their ids.

    Attributes:
        kinds: the parameters of the blocks, with the reason why one stays dense by its kind.
        named: those that a pattern adds.
        excluded: those that a pattern removes.
        candidates: those to choose from, with the reason as in `kinds`.
        outside: the matrices outside of the blocks that no pattern names.
    """

    kinds: Mapping[int, str | None]
    named: set[int]
    excluded: set[int]
    candidates: Mapping[int, str | None]
    outside: set[int]

    def prunes(self, parameter: nn.Parameter) -> bool:
        """Return whether a parameter is pruned."""
        key = id(parameter)
        if key not in self.candidates or key in self.excluded:
            return False
        return self.candidates[key] is None and _obstacle(parameter) is None

    def reason(self, parameter: nn.Parameter) -> str:
        """Return why a parameter of the blocks stays dense: the patterns, if it is a matrix; or its kind."""
        key = id(parameter)
        asked = EXCLUDED if key in self.excluded else OTHERS if key not in self.candidates else None
        if asked is not None and self.kinds[key] not in NO_MATRICES:
            return asked
        return str(self.kinds[key] or _obstacle(parameter))


def _rules(
    model: nn.Module,
    names: Mapping[int, Sequence[str]],
    include: Sequence[str],
    exclude: Sequence[str],
    only: Sequence[str],
    shape_of: ShapeOf,
) -> _Rules:
    kinds = block_matrices(model, shape_of)
    included = parameters_matching(names, include, "pruning.include")
    included |= _matrices(model, parameters_matching(names, only, "pruning.only"), shape_of)
    excluded = parameters_matching(names, exclude, "pruning.exclude")
    candidates = dict.fromkeys(included) if only else kinds | dict.fromkeys(included)
    outside = set() if only else matrices_outside(model, kinds, shape_of) - included - excluded
    return _Rules(kinds, included - excluded, excluded, candidates, outside)


def _check_not_empty(choice: Choice, model: nn.Module) -> None:
    if not choice.tensors:
        known = _by_size(choice.outside)
        example = known[0][0] if known else "*.dense.weight"
        raise UserError(
            f"pruning.include: nothing to prune in {type(model).__name__}: no weight matrix in transformer blocks, or "
            f"pruning.exclude matches all: name weights here, such as {example!r}"
        )


def _inputs_first(model: nn.Module) -> set[int]:
    """Return the weights whose modules store them as `[inputs, outputs]`."""
    return {
        id(weight)
        for module in model.modules()
        if has_inputs_first(module)
        for weight in module.parameters(recurse=False)
    }


def _matrices(model: nn.Module, keys: set[int], shape_of: ShapeOf) -> set[int]:
    """Return the matrices among these parameters: a pattern such as `*.attention.*` also matches norms and biases."""
    return {
        id(weight)
        for name, weight in model.named_parameters()
        if id(weight) in keys and not is_vector(name, shape_of(weight))
    }


def dense_groups(dense: Sequence[DenseMatrix]) -> Iterator[tuple[str, list[DenseMatrix]]]:
    """Yield groups of dense matrices of one shape and reason in different layers, with a pattern of their names."""
    for shape, reason in dict.fromkeys((matrix.shape, matrix.reason) for matrix in dense):
        same = {matrix.name: matrix for matrix in dense if (matrix.shape, matrix.reason) == (shape, reason)}
        for pattern in patterns_of(same):
            yield pattern, [matrix for name, matrix in same.items() if fnmatchcase(name, pattern)]


def describe_dense(choice: Choice) -> str:
    """Return one line on the parameters that stay dense inside the blocks."""
    share = sum(matrix.numel for matrix in choice.dense) / max(1, choice.num_block_weights)
    parts = (
        f"{len(group)} x {list(group[0].shape)} {pattern} ({group[0].reason})"
        for pattern, group in dense_groups(choice.dense)
    )
    return f"dense inside the blocks, {percent(share)} of their weights: {'; '.join(parts)}"


def describe_outside(choice: Choice) -> str | None:
    """Return one line on the matrices outside of the blocks; None if they are few."""
    num_outside = sum(matrix.numel for matrix in choice.outside)
    share = num_outside / max(1, num_outside + choice.num_block_weights)
    if share < MANY:
        return None
    groups = _by_size(choice.outside)
    parts = [f"{len(group)} x {list(group[0].shape)} {pattern}" for pattern, group in groups]
    more = f"; {len(parts) - NAMED} more" if len(parts) > NAMED else ""
    return (
        f"dense outside of the blocks, {percent(share)} of all matrices' weights: {'; '.join(parts[:NAMED])}{more}: "
        f"pruning.include adds matrices"
    )


def _by_size(dense: Sequence[DenseMatrix]) -> list[tuple[str, list[DenseMatrix]]]:
    """Return the groups of dense matrices, the largest first."""
    return sorted(dense_groups(dense), key=lambda group: -sum(matrix.numel for matrix in group[1]))


def _with_targets(
    chosen: Mapping[int, PrunableTensor], names: Mapping[int, Sequence[str]], sparsities: Mapping[str, float]
) -> tuple[PrunableTensor, ...]:
    """Return the chosen tensors with their own target sparsities."""
    known = {key: aliases for key, aliases in names.items() if key in chosen}
    targets = values_by_pattern(known, sparsities, "pruning.sparsities", "weight that is pruned")
    return tuple(replace(tensor, sparsity=targets.get(key)) for key, tensor in chosen.items())


def _check_can_be_pruned(tensor: PrunableTensor, parameter: nn.Parameter) -> None:
    """Check a weight that the recipe names."""
    problem = _obstacle(parameter)
    if problem is None and not tensor.shape:
        problem = f"a {parameter.dtype} of shape []"
    if problem is not None:
        raise UserError(f"pruning: {tensor.name} is {problem}: leave it out with pruning.exclude")


def _obstacle(parameter: nn.Parameter) -> str | None:
    """Return why a parameter cannot be pruned in this model."""
    if not parameter.is_floating_point():
        return f"{parameter.dtype}, not floating point"
    return None if parameter.requires_grad else "frozen, its requires_grad is False"


def _check_asked(choice: Choice) -> None:
    """Check that nearly all weights of the blocks are pruned, or stay dense for an expected reason."""
    unasked = [matrix for matrix in choice.dense if matrix.reason not in (*NO_MATRICES, EXCLUDED, OTHERS)]
    share = sum(matrix.numel for matrix in unasked) / max(1, choice.num_block_weights)
    if share > UNASKED:
        patterns = list(_exact_patterns(unasked, choice.tensors))
        reasons = " and ".join(sorted({matrix.reason for matrix in unasked}))
        raise UserError(
            f"pruning: {percent(share, 1)} of the blocks' weights would stay dense ({reasons}), and the recipe does "
            f"not ask for it: set pruning.exclude to {patterns}, make them trainable where they are frozen, or name "
            f"them in pruning.include"
        )


def _exact_patterns(dense: Sequence[DenseMatrix], pruned: Sequence[PrunableTensor]) -> Iterator[str]:
    """Yield patterns that match all dense matrices and no pruned one."""
    for pattern, group in dense_groups(dense):
        if any(fnmatchcase(tensor.name, pattern) for tensor in pruned):
            yield from (matrix.name for matrix in group)
        else:
            yield pattern

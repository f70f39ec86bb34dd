"""Find the prunable weights of a model by its structure, adjusted by patterns over names.

The default set is the weight matrices of the encoder and decoder blocks. A block is an element of an
`nn.ModuleList` whose elements are containers of one class, as in every stack of transformer layers. Inside a
block, every module with a 2-D `weight` counts (`nn.Linear` and GPT-2's `Conv1D` alike) unless it is an
`nn.Embedding`. Embeddings, heads, poolers, biases and norms therefore stay dense, without a list of model
families.
"""

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from dsprune.errors import UserError
from dsprune.model.patterns import names_of, parameters_matching, values_by_pattern
from dsprune.model.shard import PrunableTensor, ShapeOf, plain_name, plain_shape

__all__ = ["blocks_of", "find_prunable"]


def find_prunable(
    model: nn.Module,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    sparsities: Mapping[str, float] | None = None,
    *,
    shape_of: ShapeOf = plain_shape,
) -> list[PrunableTensor]:
    """Return the weights to prune in `named_parameters()` order; a tied weight counts once, under its first name.

    Args:
        model: the model; its tensors may be meta.
        include: glob patterns of parameters to add to the default set.
        exclude: glob patterns of parameters to remove from it, applied after `include`.
        sparsities: target sparsity by glob pattern; the first pattern that matches a weight counts.
        shape_of: returns the full shape of a parameter, which may be partitioned.

    A pattern must match the complete name, or one of the names of a tied weight.

    Raises:
        UserError: a pattern has no effect, a weight cannot be pruned, or there is nothing to prune.
    """
    names = names_of(model)
    chosen = _block_matrices(model, shape_of) | parameters_matching(names, include, "pruning.include")
    chosen -= parameters_matching(names, exclude, "pruning.exclude")
    if not chosen:
        raise UserError(
            f"pruning.include: nothing to prune in {type(model).__name__}: no weight matrix in transformer "
            "blocks that pruning.exclude leaves: name weights here, such as '*.dense.weight'"
        )
    targets = values_by_pattern(
        {key: names[key] for key in names if key in chosen},
        sparsities or {},
        "pruning.sparsities",
        "weight that is pruned",
    )
    tensors = []
    for name, parameter in model.named_parameters():
        if id(parameter) in chosen:
            _check_can_be_pruned(name, parameter, shape_of(parameter))
            tensors.append(PrunableTensor(plain_name(name), shape_of(parameter), targets.get(id(parameter))))
    return tensors


def _block_matrices(model: nn.Module, shape_of: ShapeOf) -> set[int]:
    """Return the ids of the weight matrices in the blocks."""
    return {
        id(weight)
        for block in blocks_of(model)
        for module in block.modules()
        if not isinstance(module, nn.Embedding)
        and isinstance(weight := getattr(module, "weight", None), nn.Parameter)
        and len(shape_of(weight)) == 2
    }


def blocks_of(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the blocks of every stack, in order."""
    for modules in model.modules():
        if isinstance(modules, nn.ModuleList) and len({type(module) for module in modules}) == 1:
            # A list of plain layers, such as several classifiers, is not a stack of blocks.
            yield from (module for module in modules if any(module.children()))


def _check_can_be_pruned(name: str, parameter: nn.Parameter, shape: tuple[int, ...]) -> None:
    if not parameter.requires_grad:
        problem = "is frozen (requires_grad is False), so the optimizer does not hold it"
    elif not parameter.is_floating_point() or not shape:
        problem = f"is a {parameter.dtype} of shape {list(shape)}, not a floating-point tensor"
    else:
        return
    raise UserError(f"pruning: {name} {problem}: leave it out with pruning.exclude")

"""The blocks of a model's encoder and decoder, and the matrices inside them.

A block is an element of an `nn.ModuleList` of containers, as in every stack of transformer layers; of an
`nn.ModuleDict` of containers of one class; or of an `nn.Sequential` of containers, which may have plain layers too. A
module outside of a stack is also a block if its class is that of a block. A list of heads outside of the blocks is not
a stack. Inside a block, every parameter of two or more dimensions holds one or several matrices: the weight of a linear
layer or of a convolution of width 1, a parameter of the module itself (`nn.MultiheadAttention.in_proj_weight`), stacked
experts `[experts, out, in]`. By default these stay dense: embeddings, norms, biases and other tables, wider
convolutions, and the routers that choose experts.
"""

import re
from collections.abc import Container, Iterator

from torch import nn
from torch.nn.modules.conv import _ConvNd

from dsprune.model.shapes import ShapeOf

__all__ = [
    "CONVOLUTION", "DEPTHWISE", "EMBEDDING", "GROUPED", "NORM", "NO_MATRICES", "ROUTER", "TABLE",
    "block_matrices", "blocks_of", "is_vector", "matrices_outside",
]  # fmt: skip

ROUTER, EMBEDDING, NORM, TABLE = "router", "embedding", "norm", "bias or table"
DEPTHWISE, CONVOLUTION, GROUPED = "depthwise (grouped) convolution", "convolution", "grouped convolution"

NO_MATRICES = frozenset({ROUTER, EMBEDDING, NORM, TABLE, DEPTHWISE})
"""Kinds of parameters that are usually not pruned with the linear layers."""

TABLES = frozenset(
    {"bias", "biases", "embed", "embedding", "embeddings", "emb", "pos", "position"}
    | {"scale", "gamma", "beta", "norm", "log", "token", "tokens", "d"}
)
"""Parts of names of parameters with several dimensions that are not matrices: the experts' `gate_up_proj_bias`, XLNet's
`seg_embed`, Mamba's `A_log` and `D`."""

ROUTES = re.compile(r"rout(?!ed)")
"""Names of routers anywhere, except `routed_experts`."""

CHOOSES = re.compile(rf"^(w_|to_)?(gates?|gating|noise|wg|switch)$|{ROUTES.pattern}|experts?_gate$")
"""Names of the router of a mixture of experts."""


def blocks_of(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the blocks of every stack, in order, then the blocks outside of stacks."""
    modules, stacked, known = dict(model.named_modules()), [], set()
    for name, module in modules.items():
        if _holds_heads(name):
            known |= set(module.modules())
        elif _is_stack(module):
            stacked += _containers(module)
    yield from stacked
    classes = {type(block) for block in stacked} - {nn.Sequential, nn.ModuleList, nn.ModuleDict}
    known |= {module for block in stacked for module in block.modules()}
    yield from (module for module in modules.values() if type(module) in classes and module not in known)


def _containers(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.children() if any(child.children())]


def _holds_heads(name: str) -> bool:
    """Return whether a list holds heads, one per task, by its name; attention heads are inside a block."""
    return re.search(r"(heads?|classifiers?)$", name) is not None and not re.search(r"(^|\.)\d+\.", name)


def _is_stack(module: nn.Module) -> bool:
    """Return whether a module is a list of blocks. A list of plain layers, such as several classifiers, is not."""
    elements = [element for element in module.children() if not isinstance(element, nn.Identity)]
    blocks = _containers(module)
    if not blocks or not (len(blocks) == len(elements) or isinstance(module, nn.Sequential)):
        return False
    if isinstance(module, nn.ModuleList):  # of several classes, where attention alternates with another layer
        return True
    one_class = len(blocks) > 1 and len({type(block) for block in blocks}) == 1
    return one_class and isinstance(module, nn.Sequential | nn.ModuleDict)


def block_matrices(model: nn.Module, shape_of: ShapeOf) -> dict[int, str | None]:
    """Return the matrices in the blocks by id, each with the reason why it stays dense.

    The reason is the kind of parameter, such as `router`; None for a matrix to prune. The model's tensors may be meta.
    `shape_of` returns the full shape of a parameter, which may be partitioned.
    """
    found: dict[int, str | None] = {}
    for block in blocks_of(model):
        routers = {id(weight) for module in block.modules() for weight in _routers(module, shape_of)}
        for module in block.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if not is_vector(name, shape_of(parameter)):
                    kind = ROUTER if id(parameter) in routers else _dense_kind(module, name)
                    found.setdefault(id(parameter), kind)
    return found


def matrices_outside(model: nn.Module, inside: Container[int], shape_of: ShapeOf) -> set[int]:
    """Return the matrices outside of the blocks by id, except embeddings, their tied weights and wide convolutions.

    `inside` has the parameters in the blocks, by id.
    """
    kinds: dict[int, set[str | None]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in inside and not is_vector(name, shape_of(parameter)):
                kinds.setdefault(id(parameter), set()).add(_dense_kind(module, name))
    return {key for key, found in kinds.items() if found == {None}}


def is_vector(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a parameter has one dimension, not counting dimensions of size 1.

    Examples:
        >>> is_vector("time_mix_key", (1, 1, 64)), is_vector("shared_expert_gate.weight", (1, 64))
        (True, False)
    """
    is_linear = len(shape) == 2 and name.rpartition(".")[2] == "weight"
    return not is_linear and sum(size > 1 for size in shape) < 2


def _dense_kind(module: nn.Module, name: str) -> str | None:
    """Return the kind of a parameter that is not a matrix that multiplies hidden states; None for a matrix."""
    class_name = type(module).__name__
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) or "Embedding" in class_name:
        return EMBEDDING
    if re.search("Norm(?!al|ed)", class_name) and not isinstance(module, nn.Linear):
        return NORM
    if isinstance(module, _ConvNd):
        return _convolution(module)
    return TABLE if TABLES.intersection(name.lower().split("_")) else None


def _convolution(module: _ConvNd) -> str | None:
    """Return the kind of convolution of a module; None for width 1, which is a linear layer at each position."""
    if module.groups == module.in_channels > 1:
        return DEPTHWISE
    if set(module.kernel_size) == {1}:
        return None
    return GROUPED if module.groups > 1 else CONVOLUTION


def _routers(module: nn.Module, shape_of: ShapeOf) -> Iterator[nn.Parameter]:
    """Yield the weights of the router of a mixture of experts, and of any other router of a module."""
    shapes = {name: shape_of(weight) for name, weight in module.named_parameters(recurse=False)}
    own = [one[0] for name, one in shapes.items() if len(one) > 2 and _dense_kind(module, name) is None]
    held = {_num_experts(name, part, shape_of) for name, part in module.named_children()}
    counts = {count for count in (*own, *held) if count is not None}
    if isinstance(module, _ConvNd):
        return
    chooses = CHOOSES if counts else ROUTES
    for name, part in module.named_children():
        has_score_each = isinstance(part, nn.Linear) and part.out_features in counts - {part.in_features}
        if has_score_each or chooses.search(name) or "Router" in type(part).__name__:
            yield from part.parameters()
    yield from (weight for name, weight in module.named_parameters(recurse=False) if chooses.search(name))


def _num_experts(name: str, module: nn.Module, shape_of: ShapeOf) -> int | None:
    """Return the number of experts of a module, 0 if it is unknown; None if it has none."""
    if isinstance(module, nn.ModuleList | nn.ModuleDict) and len(module) > 1:
        return len(module)
    shapes = [shape_of(weight) for weight in module.parameters(recurse=False)]
    if not isinstance(module, _ConvNd) and any(len(shape) > 2 for shape in shapes):
        return next(shape[0] for shape in shapes if len(shape) > 2)
    return 0 if re.search("experts?$", f"{name} {type(module).__name__}".lower()) else None

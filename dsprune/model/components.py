"""The components of a language model: embeddings, the matrices of its blocks by their use, norms, pooler, head.

The structure of the model determines the place of a weight: in an `nn.Embedding`, a matrix in a block, a vector, in the
base model or in the head. The name of a matrix in a block determines its use. Names differ between model families; a
name that is not in the table below counts as unknown.
"""

import re
from dataclasses import dataclass

from torch import nn

from dsprune.model.blocks import (
    CONVOLUTION,
    DEPTHWISE,
    GROUPED,
    NORM,
    ROUTER,
    TABLE,
    block_matrices,
    blocks_of,
    is_vector,
)
from dsprune.model.shapes import plain_shape
from dsprune.model.shard import PrunableTensor

__all__ = ["COMPONENTS", "MATRICES", "SMC_SPARSITIES", "UNKNOWN", "Component", "converted", "find_components"]

WORD, POSITION, TYPE, OTHER = "word embeddings", "position embeddings", "type embeddings", "other embeddings"
VECTORS, POOLER, HEAD, ROUTERS, CONVOLUTIONS = "norms and biases", "pooler", "head", "routers", "convolutions"
UNKNOWN, OUTSIDE = "matrices of unknown use", "other matrices"

DENSE = {ROUTER: ROUTERS, NORM: VECTORS, TABLE: VECTORS} | dict.fromkeys(
    (DEPTHWISE, CONVOLUTION, GROUPED), CONVOLUTIONS
)
"""Component of the parameters inside the blocks that are dense by default, except embeddings."""

EMBEDDINGS = {
    WORD: r"word|embed_tokens|wte|shared|tok_embeddings",
    POSITION: r"position|wpe|relative_attention_bias",
    TYPE: r"token_type",
}
"""Regular expressions for the names of embeddings, by use."""

MATRICES = {
    "attention query": r"query|query_proj|q_proj|q_lin|q",
    "attention key": r"key|key_proj|k_proj|k_lin|k",
    "attention value": r"value|value_proj|v_proj|v_lin|v",
    "attention query, key and value": r"c_attn|query_key_value|qkv_proj|Wqkv|in_proj_weight",
    "attention output": r"(self_)?attention(\.output)?\.dense|post_attention\.conv1d|out_proj|o_proj|out_lin|o"
    r"|attn\.c_proj|attn\.Wo",
    "feed-forward in": r"intermediate\.(dense|conv1d)|fc1|lin1|linear1|(up|gate|gate_up)_proj|wi|wi_0|wi_1|c_fc|ffn"
    r"|mlp\.Wi|dense_h_to_4h|w1|w3|v1|fc_in|ff\.layer_1|linear_1",
    "feed-forward out": r"output\.(dense|conv1d)|fc2|lin2|linear2|down_proj|wo|mlp\.c_proj|ffn_output|mlp\.Wo"
    r"|dense_4h_to_h|w2|fc_out|ff\.layer_2|linear_2",
}
"""Regular expressions for the names of matrices, by use, with the name of the parent module if needed. They cover BERT
and similar models, DistilBERT, BART, T5, GPT-2, Llama, mixtures of experts, and torch's own layers."""

EMBEDDED, REST = (
    (WORD, POSITION, TYPE, OTHER),
    (UNKNOWN, ROUTERS, CONVOLUTIONS, VECTORS, POOLER, HEAD, OUTSIDE),
)

COMPONENTS = (*EMBEDDED, *MATRICES, *REST)
"""Names of all components, in order."""

SMC_SPARSITIES = tuple(round(1 - 0.8**n, 4) for n in range(1, 11))
"""The sparsities of SMC-Bench: each round prunes a fifth of the remaining weights of all matrices, including the
embeddings and the classifier."""


@dataclass(frozen=True)
class Component:
    """The weights of one use.

    Attributes:
        name: their use.
        tensors: the weights, in the order of `named_parameters()`.
        layers: number of the block of each tensor, counted over the model; None outside of blocks.
    """

    name: str
    tensors: tuple[PrunableTensor, ...]
    layers: tuple[int | None, ...]

    @property
    def num_weights(self) -> int:
        """Number of weights."""
        return sum(tensor.numel for tensor in self.tensors)

    def in_layer(self, layer: int) -> tuple[PrunableTensor, ...]:
        """Return the tensors in a block."""
        return tuple(t for t, number in zip(self.tensors, self.layers, strict=True) if number == layer)


def find_components(model: nn.Module) -> list[Component]:
    """Return the components of a model of transformer blocks; each weight is in exactly one.

    The model's tensors may be meta. A tied weight counts once, under its first name.
    """
    layer_of = {
        id(parameter): number
        for number, block in enumerate(blocks_of(model))
        for parameter in block.parameters()
    }
    kinds = block_matrices(model, plain_shape)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    base = getattr(model, "base_model", model)
    in_base = {id(parameter) for parameter in base.parameters()}
    found: dict[str, list[tuple[PrunableTensor, int | None]]] = {}
    for name, parameter in model.named_parameters():
        key, shape = id(parameter), tuple(parameter.shape)
        if is_vector(name, shape):
            use = VECTORS
        elif kinds.get(key) in DENSE:
            use = DENSE[str(kinds[key])]
        elif key in embeddings:
            use = _embedding(name)
        elif key in layer_of:
            use = _matrix(name)
        elif "pooler" in name:
            use = POOLER
        else:
            use = OUTSIDE if key in in_base and base is not model else HEAD
        found.setdefault(use, []).append((PrunableTensor(name, shape), layer_of.get(key)))
    return [Component(use, *map(tuple, zip(*found[use], strict=True))) for use in COMPONENTS if use in found]


def _embedding(name: str) -> str:
    return next((use for use, words in EMBEDDINGS.items() if re.search(words, name)), OTHER)


def _matrix(name: str) -> str:
    """Return the use of a matrix in a block.

    Examples:
        >>> _matrix("bert.encoder.layer.3.attention.output.dense.weight")
        'attention output'
        >>> _matrix("bert.encoder.layer.3.output.dense.weight")
        'feed-forward out'
    """
    path = name.removesuffix(".weight")
    for use, names in MATRICES.items():
        if re.search(rf"(^|\.)({names})$", path):
            return use
    return UNKNOWN


def converted(sparsity: float, counted: int, pruned: int) -> float:
    """Convert the sparsity of a larger set of weights to that of its pruned subset; all zeros are in the subset.

    The larger set has `counted` weights, the subset `pruned`. The result is above 1 if the dense weights alone are too
    many to reach the sparsity.

    Examples:
        >>> round(converted(0.59, counted=355_360_000, pruned=301_990_000), 3)  # RoBERTa-large
        0.694
    """
    return sparsity * counted / pruned

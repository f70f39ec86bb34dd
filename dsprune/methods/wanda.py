"""Wanda: weights that are small, or multiply small inputs, are pruned first."""

from torch import Tensor

from dsprune.methods.method import Method, ShardContext

__all__ = ["Wanda"]


class Wanda(Method):
    """Score a weight by its size times the norm of the input that it multiplies.

    Removing w changes an output by w x, so the squares of these changes add up to w^2 |x|^2 over all positions. The
    inputs are those of the training batches, over all ranks and all steps since the previous mask update, or the last
    `pruning.window` of them. Padding does not count if the model is called with an `attention_mask`. It does count in
    an encoder-decoder model, and in an expert that receives only some of the positions.

    `pruning.scope` is `row` unless the recipe says otherwise: the weights of one output are ranked together, as in the
    source. With `curve: one-shot` and `start: 0` the first batch is the calibration data, and the model is pruned
    before it trains, as published; the rest of the run is the recovery. Unlike in the source, which prunes one layer
    after the other, all layers are pruned together, from their inputs in the dense model.

    Refused: embeddings, stacked experts, and other weights whose input cannot be observed. If a matrix has no input
    before a mask update, for example an expert that is never chosen, the run ends with an error that names it.

    Formula: score = |w| |x|, with |x| the norm of the input over all positions.
    Source: Sun et al., A Simple and Effective Pruning Approach for Large Language Models, 2024.
    Cost: 8 bytes per input of a matrix, and, at each step that is summed, one pass over the inputs and one message of
    the same size.
    Use: large decoders, in one shot from few batches.
    """

    absolute = True
    squared = True
    reads_inputs = True

    def scores(self, context: ShardContext) -> Tensor:
        """Return the weights times the norms, ordered by absolute value."""
        return context.weight * context.input_norms()

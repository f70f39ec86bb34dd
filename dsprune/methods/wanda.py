"""Wanda: weights are pruned first that are small, or multiply small inputs."""

from torch import Tensor

from dsprune.methods.method import Method, ShardContext

__all__ = ["Wanda"]


class Wanda(Method):
    """Score a weight by its size times the norm of the input that it multiplies.

    Without w an output changes by w x, so the squares of these changes add up to w^2 |x|^2 over all positions. The
    inputs are those of the training batches, over all ranks and all steps since the mask update before, or the last
    `pruning.window` of them. Padding does not count where the model is called with an `attention_mask`; it does in a
    model of an encoder and a decoder, and in an expert that gets a selection of the positions.

    `pruning.scope` is `row` unless the recipe says otherwise: the weights of one output compete, as in the source. With
    `curve: one-shot` and `start: 0` the first batch calibrates, and the model is pruned before it trains, as
    published; the run is then the recovery. Unlike there, the layers are pruned together, from the inputs that they
    have in the dense model, where the source prunes one after the other.

    Refused: embeddings, stacked experts, and other weights whose input is not seen. A matrix without any input up to
    a mask update, such as an expert that is not chosen, ends the run with its name.

    Formula: score = |w| |x|, with |x| the norm of the input over all positions.
    Source: Sun et al., A Simple and Effective Pruning Approach for Large Language Models, 2024.
    Cost: 8 bytes an input of a matrix, and at each step that counts a pass over the inputs and a message of as much.
    Use: large decoders, in one shot from few batches.
    """

    absolute = True
    squared = True
    reads_inputs = True

    def scores(self, context: ShardContext) -> Tensor:
        """Return the weights times the norms, ordered by absolute value."""
        return context.weight * context.input_norms()

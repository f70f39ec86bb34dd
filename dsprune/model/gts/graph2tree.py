"""Graph2Tree: GTS with a graph encoder between the LSTM and the tree decoder."""

from torch import Tensor
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel

from dsprune.model.gts.graphs import GraphEncoder, quantity_graphs
from dsprune.model.gts.solver import EquationSolver, GtsConfig, GtsOutput

__all__ = ["Graph2TreeConfig", "Graph2TreeForEquations"]


class Graph2TreeConfig(GtsConfig):
    """The configuration of `Graph2TreeForEquations`: that of GTS with another width and one more entry.

    Attributes:
        graph_dropout: dropout of the graph encoder.
    """

    model_type = "dsprune-graph2tree"

    decoder_size: int = 384
    graph_dropout: float = 0.3


class Graph2TreeForEquations(EquationSolver):
    """A question with slots and quantity cells in, the tree of an equation out."""

    config_class = Graph2TreeConfig

    def __init__(self, config: Graph2TreeConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config, encoder)
        self.graph = GraphEncoder(config.decoder_size, config.graph_dropout)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        slots: Tensor,
        word_index: Tensor,
        in_cell: Tensor,
        ranks: Tensor,
        labels: Tensor | None = None,
        num_beams: int = 1,
        max_nodes: int = 1,
    ) -> GtsOutput:
        """Score the nodes of known trees, or search trees.

        The arguments `word_index`, `in_cell` and `ranks` are those of `quantity_graphs`, all others those of
        `GtsForEquations.forward`.
        """
        words, goal = self.read(input_ids, attention_mask)
        words = self.graph(
            words, quantity_graphs(input_ids, word_index, in_cell, ranks, attention_mask.bool())
        )
        return self.solve(words, goal, attention_mask, slots, labels, num_beams, max_nodes)


AutoConfig.register(Graph2TreeConfig.model_type, Graph2TreeConfig)
AutoModelForSeq2SeqLM.register(Graph2TreeConfig, Graph2TreeForEquations)

"""The base class of the complete models, and GTS. They are registered with transformers' auto classes."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

from dsprune.model.gts.decoder import TreeDecoder
from dsprune.model.gts.lstm import QuestionLSTM

__all__ = ["EquationSolver", "GtsConfig", "GtsForEquations", "GtsOutput"]

LAYERS = 2
"""Layers of the LSTM, as published."""


class GtsConfig(PretrainedConfig):
    """The configuration of `GtsForEquations`.

    Attributes:
        encoder: configuration of the encoder.
        decoder_size: width of the LSTM and of the tree decoder.
        dropout: dropout of the LSTM and of the tree decoder; the encoder has its own.
        num_operators: number of the first classes, which have two operands each.
        num_slots: number of the next classes, the numbers of the question.
        num_constants: number of the last classes; the last one stands for all constants without a class.
        equation_symbols: names of the classes.
    """

    model_type = "dsprune-gts"
    sub_configs: ClassVar[dict[str, Any]] = {"encoder": AutoConfig}

    encoder: Any = None
    decoder_size: int = 512
    dropout: float = 0.5
    num_operators: int = 4
    num_slots: int = 1
    num_constants: int = 1
    equation_symbols: Any = ()

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.encoder, dict):
            self.encoder = AutoConfig.for_model(**self.encoder)
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    @property
    def vocab_size(self) -> int:
        """Number of classes."""
        return self.num_operators + self.num_slots + self.num_constants


@dataclass
class GtsOutput(ModelOutput):
    """The output of the model.

    Attributes:
        loss: mean cross-entropy of the nodes, with labels.
        logits: `[questions, nodes, classes]`, with labels.
        trees: `[questions, nodes]`, classes in prefix order, -1 after the end; without labels.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    trees: Tensor | None = None


class EquationSolver(PreTrainedModel):
    """An encoder, an LSTM on it, and the tree decoder. Subclasses define the forward pass.

    Args:
        config: the configuration.
        encoder: reads the questions; None makes one from the configuration.
    """

    config_class = GtsConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_flash_attn = True
    _supports_sdpa = True

    def __init__(self, config: GtsConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.encoder = AutoModel.from_config(config.encoder) if encoder is None else encoder
        self.config.encoder = self.encoder.config  # the same object, so that changes of the encoder are saved
        width, encoder_width = config.decoder_size, config.encoder.hidden_size
        self.lstm = QuestionLSTM(encoder_width, width, LAYERS, dropout=config.dropout)
        self.decoder = TreeDecoder(
            width,
            encoder_width,
            operators=config.num_operators,
            constants=config.num_constants,
            dropout=config.dropout,
        )
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Keep the initialization of torch's layers."""

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding of the encoder's tokens."""
        embedding: nn.Module = self.encoder.get_input_embeddings()
        return embedding

    def get_output_embeddings(self) -> None:
        """Return nothing: the classes are scored by several layers."""

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """Resize the embedding of the encoder's tokens."""
        return self.encoder.resize_token_embeddings(*args, **kwargs)

    def read(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the LSTM's outputs `[questions, tokens, width]` and the goals of the roots, `[questions, width]`.

        Both are sums over the two directions: of the states at each token, and of the last states.
        """
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        read: tuple[Tensor, Tensor] = self.lstm(states, attention_mask.bool())
        return read

    def solve(
        self,
        words: Tensor,
        goal: Tensor,
        attention_mask: Tensor,
        slots: Tensor,
        labels: Tensor | None,
        num_beams: int,
        max_nodes: int,
    ) -> GtsOutput:
        """Score known trees, or search trees, from the results of `read`; other arguments as in `forward`."""
        is_slot = slots[:, None] == torch.arange(self.config.num_slots, device=slots.device)[:, None]
        numbers = is_slot.to(words.dtype) @ words
        is_word, has_slot = attention_mask.bool(), is_slot.any(dim=-1)
        # By position: DeepSpeed finds only the gradients of positional inputs.
        found = self.decoder(words, goal, is_word, numbers, has_slot, labels, num_beams, max_nodes)
        if labels is None:
            return GtsOutput(trees=found)
        loss = functional.cross_entropy(found.flatten(0, 1).float(), labels.flatten())
        return GtsOutput(loss=loss, logits=found)


class GtsForEquations(EquationSolver):
    """A question with slots in, the tree of an equation out."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        slots: Tensor,
        labels: Tensor | None = None,
        num_beams: int = 1,
        max_nodes: int = 1,
    ) -> GtsOutput:
        """Score the nodes of known trees, or search trees.

        Args:
            input_ids: `[questions, tokens]`, padded on the right.
            attention_mask: `[questions, tokens]`, 0 for padding.
            slots: `[questions, tokens]`, the slot that a token stands for; -1 for words.
            labels: `[questions, nodes]`, classes in prefix order, negative after the end of a tree; None = search.
            num_beams: width of the beam search.
            max_nodes: largest tree that is searched.
        """
        words, goal = self.read(input_ids, attention_mask)
        return self.solve(words, goal, attention_mask, slots, labels, num_beams, max_nodes)


AutoConfig.register(GtsConfig.model_type, GtsConfig)
AutoModelForSeq2SeqLM.register(GtsConfig, GtsForEquations)

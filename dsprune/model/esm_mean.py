"""ESM with the head of SMC-Bench: two layers on the mean of all tokens."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import EsmConfig, EsmModel, EsmPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

__all__ = ["EsmMeanForSequenceClassification"]

WIDTH = 512
"""Width of the head's first layer, as published."""


class EsmMeanForSequenceClassification(EsmPreTrainedModel):
    """ESM with a head of two layers, a norm and a ReLU between them, on the mean of all tokens except the first.

    With one label it is a regression, otherwise a classification.
    """

    def __init__(self, config: EsmConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.esm = EsmModel(config, add_pooling_layer=False)
        layers = nn.Linear(int(config.hidden_size), WIDTH), nn.Linear(WIDTH, int(config.num_labels or 1))
        self.classifier = nn.Sequential(layers[0], nn.LayerNorm(WIDTH), nn.ReLU(), layers[1])
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def from_config(cls, config: EsmConfig, **settings: Any) -> "EsmMeanForSequenceClassification":
        """Return the model with new weights, as transformers' auto classes do."""
        made: EsmMeanForSequenceClassification = cls._from_config(config, **settings)  # type: ignore[no-untyped-call]
        return made

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the head's weights like torch's layers, and the others like ESM."""
        if any(module is layer for layer in getattr(self, "classifier", ())):
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()
        else:
            super()._init_weights(module)  # type: ignore[no-untyped-call]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Return the logits `[texts, labels]`, and the loss if there are labels.

        Args:
            input_ids: `[texts, tokens]`, padded on the right; the first token stands for no amino acid.
            attention_mask: `[texts, tokens]`, 0 for padding.
            labels: `[texts]`, classes or numbers.
        """
        states = self.esm(input_ids, attention_mask=attention_mask).last_hidden_state[:, 1:]
        is_token = attention_mask[:, 1:, None].to(states.dtype)
        logits = self.classifier((states * is_token).sum(dim=1) / is_token.sum(dim=1))
        loss = None if labels is None else self._loss(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.num_labels == 1:
            return functional.mse_loss(logits.squeeze(-1), labels.float())
        return functional.cross_entropy(logits, labels)

"""The LSTM on the encoder, which reads each question forwards, and backwards from its last word.

One call of torch's LSTM on packed sequences has the same result. But on a CPU it computes a gradient of all weights for
each token, which takes half of a training step. So each direction is a separate call on padded questions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

__all__ = ["QuestionLSTM"]


class QuestionLSTM(nn.LSTM):
    """An LSTM of any number of layers in both directions, with torch's weights."""

    def __init__(self, inputs: int, width: int, layers: int, *, dropout: float) -> None:
        super().__init__(inputs, width, layers, batch_first=True, dropout=dropout, bidirectional=True)

    def forward(self, words: Tensor, is_word: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the sum of both directions at each word, `[questions, tokens, width]`, and that of their last states.

        Args:
            words: `[questions, tokens, inputs]`, padded on the right.
            is_word: `[questions, tokens]`, False for padding.
        """
        questions, lengths = torch.arange(len(words), device=words.device), is_word.sum(dim=1)
        places = torch.arange(words.shape[1], device=words.device)
        turned = questions[:, None], torch.where(is_word, lengths[:, None] - 1 - places, places)
        weights = self.all_weights
        for layer in range(self.num_layers):
            if layer:
                words = dropout(words, self.dropout, self.training)
            ahead = self._read(words, weights[2 * layer])
            back = self._read(words[turned], weights[2 * layer + 1])[turned]
            words = torch.cat([ahead, back], dim=-1)
        return (ahead + back) * is_word[..., None], ahead[questions, lengths - 1] + back[:, 0]

    def _read(self, words: Tensor, weights: Sequence[Tensor]) -> Tensor:
        start = words.new_zeros(1, len(words), self.hidden_size)
        outputs: Tensor = torch.lstm(
            words, (start, start), list(weights), True, 1, 0.0, self.training, False, self.batch_first
        )[0]
        return outputs

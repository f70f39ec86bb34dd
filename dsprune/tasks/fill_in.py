"""Filling a blank: a masked language model scores each option by the probability of its tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import relu
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import MultipleChoiceModelOutput

from dsprune.errors import UserError
from dsprune.model.pretrained import Head
from dsprune.tasks.examples import Batch, Collate, Features
from dsprune.tasks.multiple_choice import GROUP, MultipleChoice
from dsprune.tasks.rows import Rows
from dsprune.tasks.source import Split
from dsprune.tasks.token_logits import IGNORED

__all__ = ["Blank", "FillIn", "margin_loss"]


@dataclass(frozen=True)
class Blank:
    """A sentence with a blank.

    Attributes:
        left: the text before the blank.
        right: the text after it.
        options: the texts that may fill the blank.
        answer: the number of the correct option, from 0.
    """

    left: str
    right: str
    options: tuple[str, str]
    answer: int


def margin_loss(scores: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
    """Return the mean of -q + alpha * max(0, c - q + beta), for the right option's score q and the other's c.

    After Kocijan et al. (2019), as in fairseq for WinoGrande.

    Args:
        scores: `[examples, 2]`, log probabilities of the options.
        labels: `[examples]`, numbers of the right options.
        alpha: weight of the margin.
        beta: width of the margin.
    """
    right = scores.gather(1, labels[:, None])
    other = scores.gather(1, 1 - labels[:, None])
    return (-right + alpha * relu(other - right + beta)).mean()


@dataclass(frozen=True)
class FillIn(MultipleChoice):
    """Fill-in: input is a sentence with a blank and two options, output the number of the better option.

    Each option is put into the blank and masked there. Its score, the logit of the choice, is the mean log probability
    of its tokens. The model is a masked language model and is saved as one.

    Attributes:
        read_blanks: makes sentences with blanks from rows.
    """

    uses = ("max_length", "loss", "alpha", "beta")
    head = Head(AutoModelForMaskedLM, ("ForMaskedLM",), "masked language-modelling")

    read_blanks: Callable[[Rows], list[Blank]] = field(kw_only=True)

    def load(self, split: Split) -> Dataset:
        """Read the sentences, their options, and the number of the correct one."""
        blanks = self.read_blanks(self.rows(split))
        columns = {name: [getattr(blank, name) for blank in blanks] for name in ("left", "right", "options")}
        return Dataset.from_dict({**columns, "labels": [blank.answer for blank in blanks]})

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, rows: Mapping[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """Tokenize the sentence with each option, masked; `targets` holds the option's tokens at their places."""
        if tokenizer.mask_token_id is None:
            raise UserError(
                f"task.loss: value margin: {type(tokenizer).__name__} has no mask token: leave it out"
            )
        encoded: dict[str, list[Any]] = {}
        for left, right, options in zip(rows["left"], rows["right"], rows["options"], strict=True):
            filled = [self._filled(tokenizer, left, option, right) for option in options]
            for name in filled[0]:
                encoded.setdefault(name, []).append([one[name] for one in filled])
        lengths = [max(map(len, choices)) for choices in encoded["input_ids"]]
        return {**encoded, "labels": rows["labels"], GROUP: [""] * len(lengths), "length": lengths}

    def _filled(
        self, tokenizer: PreTrainedTokenizerBase, left: str, option: str, right: str
    ) -> dict[str, list[int]]:
        """Encode a sentence with one option."""
        longest = self.settings.max_length
        features = dict(
            tokenizer(left + option + right, truncation=True, max_length=longest, return_offsets_mapping=True)
        )
        start, end = len(left.rstrip()), len(left + option)  # the space before it is part of its first token
        is_option = [first < end and last > start for first, last in features.pop("offset_mapping")]
        if not any(is_option) or len(tokenizer(left + option)["input_ids"]) > longest:
            raise UserError(
                f"task.max_length: value {longest}: no room for the option {option!r} in {(left + '_' + right)!r}: "
                f"raise it, or correct the sentence"
            )
        tokens = features["input_ids"]
        features["targets"] = [
            token if own else IGNORED for token, own in zip(tokens, is_option, strict=True)
        ]
        features["input_ids"] = [
            tokenizer.mask_token_id if own else token for token, own in zip(tokens, is_option, strict=True)
        ]
        return features

    def collate(self, tokenizer: PreTrainedTokenizerBase, pad_to_multiple_of: int | None = None) -> Collate:
        """Make tensors `[examples, options, tokens]`, padded to the longest option of the batch."""
        padding = {"input_ids": tokenizer.pad_token_id, "targets": IGNORED}

        def collate(features: Sequence[Features]) -> Batch:
            batch = {"labels": torch.tensor([one["labels"] for one in features])}
            for name in features[0].keys() - {"labels", "length", GROUP}:
                rows = [torch.tensor(row) for one in features for row in one[name]]
                padded = pad_sequence(rows, batch_first=True, padding_value=padding.get(name, 0))
                missing = -padded.shape[1] % (pad_to_multiple_of or 1)
                padded = torch.nn.functional.pad(padded, (0, missing), value=padding.get(name, 0))
                batch[name] = padded.unflatten(0, (len(features), -1))
            return batch

        return collate

    def build_model(
        self, path: str, tokenizer: PreTrainedTokenizerBase, *, new_head: bool = True
    ) -> PreTrainedModel:
        """Open the masked language model, which scores options."""
        return self._scoring(super().build_model(path, tokenizer, new_head=new_head))

    def new_model(self, config: PretrainedConfig) -> PreTrainedModel:
        """Return the masked language model, which scores options."""
        return self._scoring(super().new_model(config))

    def row_labels(self, dataset: Dataset) -> dict[str, Sequence[Sequence[int]]]:
        """Return nothing: the loss is not the cross-entropy of the scores."""
        return {}

    def preprocessing(self) -> str:
        """Return the preprocessing that determines the teacher's outputs."""
        return f"{super().preprocessing()}, masked"

    def _scoring(self, model: PreTrainedModel) -> PreTrainedModel:
        model.__class__ = _scorer(type(model), self.settings.alpha, self.settings.beta)
        return model


def _scorer(base: Any, alpha: float, beta: float) -> Any:
    """Return a class of masked language models that score options; it has the name of its base, and is saved as it."""

    def forward(
        self: Any, input_ids: Tensor, targets: Tensor, labels: Tensor | None = None, **inputs: Tensor
    ) -> MultipleChoiceModelOutput:
        shape = input_ids.shape
        flat = {name: tensor.flatten(0, 1) for name, tensor in {"input_ids": input_ids, **inputs}.items()}
        logits = base.forward(self, **flat).logits.float()
        is_option = targets.flatten(0, 1) != IGNORED
        wanted = targets.flatten(0, 1).masked_fill(~is_option, 0)
        log_probability = logits.log_softmax(-1).gather(2, wanted[..., None])[..., 0] * is_option
        scores = (log_probability.sum(-1) / is_option.sum(-1)).view(shape[:2])
        loss = None if labels is None else margin_loss(scores, labels, alpha, beta)
        return MultipleChoiceModelOutput(loss=loss, logits=scores)

    names = {"forward": forward, "__module__": base.__module__, "__doc__": base.__doc__}
    return type(base.__name__, (base,), names)

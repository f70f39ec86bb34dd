"""What all tasks share whose output is a sequence that an encoder-decoder model writes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import DataCollatorForSeq2Seq, PretrainedConfig, PreTrainedTokenizerBase

from dsprune.tasks.collate import padded
from dsprune.tasks.task import Batch, Collate, LogitRows, Task
from dsprune.tasks.token_rows import linear_head, rows_where

__all__ = ["Seq2Seq"]


class Seq2Seq(Task):
    """The decoder reads the labels, shifted by one, while it is trained; in evaluation it reads what it wrote.

    Attributes:
        num_given: tokens at the start of each output that are given, not guessed, such as its language.
    """

    num_given: int = 0

    def max_new_tokens(self) -> int:
        """How long an output may become."""
        return self.settings.max_target

    def collate(self, tokenizer: PreTrainedTokenizerBase, pad_to_multiple_of: int | None = None) -> Collate:
        """Pad to the longest input and the longest output of the batch."""
        pad = DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=pad_to_multiple_of)
        return padded(pad, without=self.only_for_score)

    only_for_score: tuple[str, ...] = ()
    """Columns that the model does not read."""

    def inputs(self, batch: Batch) -> Batch:
        """All of it: the labels are what the decoder reads."""
        return batch

    def predict(self, model: nn.Module, batch: Batch) -> list[list[int]]:
        """The tokens of each output. Collective under ZeRO-3: ranks write until the last one has finished."""
        writer: Any = getattr(model, "module", model)  # of a DeepSpeed engine, whose config is another
        first = torch.full_like(batch["labels"][:, :1], writer.config.decoder_start_token_id)
        given = torch.cat([first, batch["labels"][:, : self.num_given]], dim=1)
        written = writer.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            decoder_input_ids=given,
            max_new_tokens=self.max_new_tokens(),
            num_beams=self.settings.beams,
            do_sample=False,
            synced_gpus=any(hasattr(parameter, "ds_id") for parameter in writer.parameters()),
        )
        return written[:, given.shape[1] :].tolist()

    def classes(self, config: PretrainedConfig) -> dict[str, int]:
        """One output, with a class for each token of the target's vocabulary."""
        return {"logits": config.get_text_config(decoder=True).vocab_size}

    def logit_rows(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, LogitRows]:
        """The rows of the output's tokens."""
        return {"logits": rows_where(outputs["logits"], batch["labels"])}

    def num_rows(self, dataset: Dataset) -> dict[str, np.ndarray]:
        """How many tokens the outputs have."""
        return {"logits": np.array(list(map(len, dataset["labels"][:])))}

    def heads(self, model: nn.Module) -> dict[str, nn.Linear]:
        """The layer over the vocabulary."""
        return linear_head(model)

    def samples(self, dataset: Dataset) -> dict[str, Sequence[Any]]:
        """The input, and the output that the decoder reads."""
        names = ("input_ids", "attention_mask", "labels")
        return {name: dataset[name][:] for name in names}

    def row_labels(self, dataset: Dataset) -> dict[str, Sequence[Sequence[int]]]:
        """The tokens of the outputs."""
        return {"logits": dataset["labels"][:]}

    def preprocessing(self) -> str:
        """The cuts."""
        return f"{super().preprocessing()} and {self.max_new_tokens()} out"

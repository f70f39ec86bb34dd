"""The base class of tasks that generate a sequence with an encoder and a decoder."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import DataCollatorForSeq2Seq, PretrainedConfig, PreTrainedModel

from dsprune.tasks.examples import Batch
from dsprune.tasks.task import LogitRows, Task
from dsprune.tasks.token_logits import labelled_rows, linear_head

__all__ = ["Seq2Seq"]


class Seq2Seq(Task):
    """Sequence to sequence: input and output are sequences.

    In training the decoder reads the labels, shifted by one; in evaluation it reads what it has generated.

    Attributes:
        num_given: tokens at the start of each output that are given to the decoder, such as its language.
    """

    uses: ClassVar[tuple[str, ...]] = ("max_length", "max_target", "beams")
    collator = DataCollatorForSeq2Seq

    num_given: int = 0

    def max_new_tokens(self) -> int:
        """Return the largest number of tokens to generate."""
        return self.settings.max_target

    def predict(self, model: nn.Module, batch: Batch) -> list[list[int]]:
        """Generate the tokens of each output.

        Collective under ZeRO-3: each rank runs forward passes until the last rank has finished.
        """
        from dsprune.zero.parameters import is_partitioned  # imports DeepSpeed, which prints

        # A DeepSpeed engine has the model inside, and a config of another kind.
        generator: Any = model if isinstance(model, PreTrainedModel) else model.module
        first = torch.full_like(batch["labels"][:, :1], generator.config.decoder_start_token_id)
        given = torch.cat([first, batch["labels"][:, : self.num_given]], dim=1)
        generated = generator.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            decoder_input_ids=given,
            max_new_tokens=self.max_new_tokens(),
            num_beams=self.settings.beams,
            do_sample=False,
            synced_gpus=any(map(is_partitioned, generator.parameters())),
        )
        numbers: list[list[int]] = generated[:, given.shape[1] :].tolist()
        return numbers

    def classes(self, config: PretrainedConfig) -> dict[str, int]:
        """Return one output, with a class for each token of the target's vocabulary."""
        return {"logits": config.get_text_config(decoder=True).vocab_size}

    def targets(self, data: Dataset) -> str:
        """Return the number of targets that are as long as an output can be."""
        longest = self.max_new_tokens()
        num_full = sum(len(labels) >= longest for labels in data["labels"][:])
        if not num_full:
            return ""
        share = f"{num_full:,} of {len(data):,} targets"
        return f"{share} have {longest} tokens or more: outputs end there, by task.max_target"

    def inputs(self, batch: Batch) -> Batch:
        """Return all of the batch: the decoder reads the labels."""
        return batch

    def logit_rows(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, LogitRows]:
        """Return the rows of the target's tokens."""
        return {"logits": labelled_rows(outputs["logits"], batch["labels"])}

    def num_rows(self, dataset: Dataset) -> dict[str, np.ndarray]:
        """Return the number of tokens of each target."""
        return {"logits": np.array(list(map(len, dataset["labels"][:])))}

    def heads(self, model: nn.Module) -> dict[str, nn.Linear]:
        """Return the layer over the vocabulary."""
        return linear_head(model)

    def samples(self, dataset: Dataset) -> dict[str, Sequence[Any]]:
        """Return the input, and the target, which the decoder reads."""
        names = ("input_ids", "attention_mask", "labels")
        return {name: dataset[name][:] for name in names}

    def row_labels(self, dataset: Dataset) -> dict[str, Sequence[Sequence[int]]]:
        """Return the tokens of the targets."""
        return {"logits": dataset["labels"][:]}

    def preprocessing(self) -> str:
        """Add the length of the outputs."""
        return f"{super().preprocessing()} and {self.max_new_tokens()} out"

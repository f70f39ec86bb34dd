"""Measure what `model.vocabulary: used` saves: the embedding rows of tokens that the task's data do not use."""

from typing import cast

from transformers import PreTrainedModel

from dsprune.commands.analyze.measure import Evaluator
from dsprune.commands.analyze.result import UnusedRows
from dsprune.errors import UserError
from dsprune.model.pretrained import load_tokenizer
from dsprune.model.vocabulary import Vocabulary, num_missing
from dsprune.recipe import Model
from dsprune.tasks.examples import tokens_in

__all__ = ["leave_out_unused_rows"]


def leave_out_unused_rows(evaluator: Evaluator, settings: Model) -> UnusedRows | None:
    """Leave the unused rows out of the evaluator's model, in place, and measure it again.

    Collective: every rank must call this.

    Returns:
        What was measured; None = no rows can be left out of this model.
    """
    model = cast(PreTrainedModel, evaluator.model.cpu())
    tokenizer = load_tokenizer(settings.tokenizer or settings.path)
    data = (evaluator.task.prepare("train", tokenizer), evaluator.data)
    try:
        vocabulary = Vocabulary.used(model, tokenizer, map(tokens_in, data))
    except UserError:
        return None
    vocabulary.shorten(model, keep_others=False)
    evaluator.model.to(evaluator.device)
    return UnusedRows(len(vocabulary.kept), vocabulary.size, num_missing(model), evaluator.score())

"""The model that a run starts from."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dsprune.model.fit import Changes, changing
from dsprune.model.pretrained import keep_layers
from dsprune.recipe import Model as ModelSettings
from dsprune.tasks.task import Task

__all__ = ["start_model"]


def start_model(task: Task, settings: ModelSettings, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Return the model that a run starts from: opened for the task, and changed as the recipe asks.

    Raises:
        UserError: the model cannot be opened, does not fit the task, or cannot be changed so.
    """
    with changing(Changes(settings.new_head, settings.resize_embeddings)):
        return keep_layers(task.build_model(settings.path, tokenizer), settings.layers)

"""Text classification for data in which some labels are rare."""

from collections.abc import Sequence

import torch
from datasets import Dataset

from dsprune.tasks.text_classification import TextClassification


class BalancedClassification(TextClassification):
    """Text classification with the mean of the labels' recalls as its headline metric."""

    def score(self, predictions: Sequence[int], dataset: Dataset) -> dict[str, float]:
        """Return the headline metric first, then those of text classification."""
        predicted, labels = torch.tensor(predictions), torch.tensor(dataset["labels"][:])
        recalls = [(predicted[labels == label] == label).float().mean() for label in labels.unique()]
        return {
            "balanced_accuracy": float(sum(recalls) / len(recalls)),
            **super().score(predictions, dataset),
        }

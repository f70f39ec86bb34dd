"""The models of dsprune, which transformers does not have."""

__all__ = ["OWN_MODELS"]

OWN_MODELS = {
    "EsmMeanForSequenceClassification": "dsprune.model.esm_mean",
    "Graph2TreeForEquations": "dsprune.model.gts",
    "GtsForEquations": "dsprune.model.gts",
}
"""The module of each class, by the name of the class. A model card needs the names without transformers."""

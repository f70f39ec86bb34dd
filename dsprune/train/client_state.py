"""The state of a run in its checkpoints, in addition to the engine's: the end of its log, and the best evaluation."""

from pydantic import BaseModel

from dsprune.utils.records import Count

__all__ = ["CLIENT", "Best", "ClientState"]

CLIENT = "dsprune"
"""Its key in a checkpoint's client state."""


class Best(BaseModel):
    """The best evaluation so far: its first metric, and the tag of its checkpoint."""

    metric: str
    value: float
    tag: str


class ClientState(BaseModel):
    """The entry `CLIENT` of a checkpoint.

    Attributes:
        best: the best evaluation so far.
        metrics_bytes: size of `metrics.jsonl`.
        wandb_id: id of the run at Weights & Biases.
    """

    best: Best | None = None
    metrics_bytes: Count = 0
    wandb_id: str | None = None

"""What a run keeps in its checkpoints beside the engine: where its log ends, and the best evaluation so far."""

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
    """What a checkpoint has under `CLIENT`.

    Attributes:
        best: the best evaluation so far.
        metrics_bytes: size of `metrics.jsonl`.
        wandb_id: id of the run at Weights & Biases.
    """

    best: Best | None = None
    metrics_bytes: Count = 0
    wandb_id: str | None = None

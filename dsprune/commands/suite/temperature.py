"""The temperature that a run of a suite takes from its teacher logits store."""

from pathlib import Path

from dsprune.commands.calibrate.store_curves import Labels, enough_records, measure
from dsprune.distillation.calibration import recommend
from dsprune.distillation.store import open_store

__all__ = ["recommended_temperature"]


def recommended_temperature(store: Path) -> float:
    """Return the recommended temperature of the store."""
    opened = open_store(store)
    samples = opened.fingerprints[: enough_records(opened)]
    return recommend(list(measure(opened, samples, Labels()).values()))

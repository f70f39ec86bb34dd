"""The lists of weight files, `model.safetensors.index.json`, in a model folder."""

from pathlib import Path

from pydantic import BaseModel

from dsprune.utils.records import FileName, read_record

__all__ = ["check_weight_indexes", "read_weight_index"]


class WeightIndex(BaseModel):
    """The content of an index.

    Attributes:
        weight_map: the file of each tensor, in the folder of the index.
    """

    weight_map: dict[str, FileName]


def read_weight_index(index: Path) -> dict[str, str]:
    """Return the name of the file of each tensor.

    Raises:
        UserError: the index is damaged, or a file is in another folder.
    """
    return read_record(
        index, WeightIndex, "an index of weight files", "use another copy of the model"
    ).weight_map


def check_weight_indexes(folder: Path) -> None:
    """Check the indexes of a model folder, whose paths transformers would follow out of it.

    Raises:
        UserError: see `read_weight_index`.
    """
    for index in sorted(folder.glob("*.index.json")):
        read_weight_index(index)

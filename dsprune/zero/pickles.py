"""Read the pickles of DeepSpeed's checkpoints: tensors, plain values and a few small DeepSpeed classes, nothing else.

DeepSpeed itself would run any code in a pickle, so `check_pickles` comes before it.
"""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from dsprune.errors import UserError
from dsprune.utils.text import first_line

__all__ = ["check_pickles", "read_pickle"]


def check_pickles(folder: Path, part: int = 0, num_parts: int = 1) -> None:
    """Check that a part of the files that DeepSpeed would unpickle hold nothing but tensors and values.

    Raises:
        UserError: a file holds other objects, or is damaged.
    """
    for path in sorted(folder.rglob("*.pt"))[part::num_parts]:
        read_pickle(path)


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a file, with its tensors mapped into memory.

    Raises:
        UserError: it is missing, damaged, or holds other objects.
    """
    if not path.is_file():
        raise UserError(f"{path}: not a file: use another checkpoint")
    # Imported here, since DeepSpeed takes seconds to import.
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    def member(owner: Any, name: str) -> ZeroStageEnum:
        if owner is not ZeroStageEnum or name not in owner.__members__:
            raise UnpicklingError(f"getattr of {owner}, {name}")
        found: ZeroStageEnum = getattr(ZeroStageEnum, name)
        return found

    # Python 3.11.0 to 3.11.3 pickle the member of an enumeration as a call of getattr.
    allowed = [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address, (member, "builtins.getattr")]
    with torch.serialization.safe_globals(allowed):
        try:
            content: Any = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except Exception as error:  # of many types: a damaged pickle is a program with errors
            reason = f"{type(error).__name__}: {first_line(error)}"[:200]
            raise UserError(f"{path}: cannot be read ({reason}): use another checkpoint") from error
        if not isinstance(content, dict):
            raise UserError(
                f"{path}: holds a {type(content).__name__}, no checkpoint: use another checkpoint"
            )
        return content

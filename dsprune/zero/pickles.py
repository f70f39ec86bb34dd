"""Read the pickles of DeepSpeed's checkpoints: tensors, plain values and a few small classes, nothing else.

DeepSpeed itself would run any code in a pickle, so call `check_pickles` first. A script's additions to a checkpoint are
checked when it is saved.
"""

import io
import re
from argparse import Namespace
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import date, datetime, timedelta
from pathlib import Path, PosixPath
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct, scalar

from dsprune.errors import UserError
from dsprune.utils.files import find_files
from dsprune.utils.text import first_line

__all__ = ["check_client_state", "check_pickles", "read_pickle"]

OF_SCRIPTS = (Namespace, PosixPath, date, datetime, timedelta, np.ndarray, np.dtype, _reconstruct, scalar)
"""Classes that scripts save besides tensors and plain values: arguments, paths, times, arrays, numpy's random state."""


def check_client_state(state: Mapping[str, Any]) -> None:
    """Check that a script's additions to a checkpoint can be read again.

    Raises:
        UserError: an entry holds other objects.
    """
    for key, value in state.items():
        buffer = io.BytesIO()
        try:
            torch.save(value, buffer)
            buffer.seek(0)
            with _allowed():
                torch.load(buffer, map_location="cpu", weights_only=True)
        except Exception as error:
            raise UserError(
                f"client_state: {key}: a {type(value).__name__}, which could not be read again ({_reason(error)}): "
                f"save tensors and plain values, or allow the class with torch.serialization.add_safe_globals"
            ) from error


def check_pickles(folder: Path, part: int = 0, num_parts: int = 1) -> None:
    """Check that a part of the files that DeepSpeed would unpickle hold only tensors and values.

    Raises:
        UserError: a file holds other objects, or is damaged; or a folder cannot be read.
    """
    for path in find_files(folder, "*.pt")[part::num_parts]:
        read_pickle(path)


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a file, with its tensors mapped into memory.

    Raises:
        UserError: it is missing, damaged, or holds other objects.
    """
    if not path.is_file():
        raise UserError(f"{path}: not a file: use another checkpoint")
    with _allowed():
        try:
            content: Any = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except Exception as error:  # damaged pickles raise errors of many types
            raise UserError(f"{path}: cannot be read ({_reason(error)}): use another checkpoint") from error
        if not isinstance(content, dict):
            raise UserError(
                f"{path}: holds a {type(content).__name__}, not a checkpoint: use another checkpoint"
            )
        return content


def _reason(error: Exception) -> str:
    """Name the object that is not allowed, or the error."""
    found = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
    return f"it holds {found[1]}" if found else f"{type(error).__name__}: {first_line(error)}"[:200]


def _allowed() -> AbstractContextManager[None]:
    """Allow the classes that checkpoints hold."""
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
    dtypes = {type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"}
    allowed_by_torch: AbstractContextManager[None] = torch.serialization.safe_globals(
        [*allowed, *OF_SCRIPTS, *dtypes]
    )
    return allowed_by_torch

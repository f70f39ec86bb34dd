"""What DeepSpeed makes of a config: the keys that it would ignore, and the values that it refuses."""

import difflib
from collections.abc import Iterator
from typing import Any

from deepspeed.runtime import constants
from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
from pydantic import ValidationError

from dsprune.errors import UserError

__all__ = ["check_by_deepspeed", "misspelt_keys"]

# The keys that DeepSpeed reads besides those among its constants.
KNOWN_KEYS = frozenset(value for value in vars(constants).values() if isinstance(value, str)) | {
    *("zero_optimization", "tensor_parallel", "expert_parallel", "sequence_parallel_size", "pipeline"),
    *("activation_checkpointing", "hybrid_engine", "weight_quantization", "data_efficiency", "compile"),
    *("tensorboard", "wandb", "csv_monitor", "comet", "comms_logger", "flops_profiler", "timers", "aio"),
    *("autotuning", "datastates_ckpt"),
}


def misspelt_keys(config: dict[str, Any]) -> Iterator[str]:
    """Messages on top-level keys that look like a typing error: DeepSpeed ignores what it does not know."""
    if "bfloat16" in config:  # read only where there is no bf16, which dsprune writes
        yield "ds_config: bfloat16: the old name of a section: call it bf16"
    for key in config:
        near = difflib.get_close_matches(key, KNOWN_KEYS, n=1, cutoff=0.8)
        if key not in KNOWN_KEYS and near:
            yield f"ds_config: unknown key {key!r}, which DeepSpeed would ignore: did you mean {near[0]!r}?"


def check_by_deepspeed(config: dict[str, Any]) -> None:
    """Let DeepSpeed read the config early, before data and model.

    Raises:
        UserError: what DeepSpeed says, in one line.
    """
    # Its sum over batch sizes needs ranks that may not have met yet: with the micro-batch alone it has none.
    ours = ("train_batch_size", "gradient_accumulation_steps")
    try:
        DeepSpeedConfig({key: value for key, value in config.items() if key not in ours})
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        message = f"ds_config: {error.title}: {field}={problem['input']!r}: {problem['msg']}"
        raise UserError(message) from error
    except (DeepSpeedConfigError, AssertionError, TypeError, ValueError) as error:
        raise UserError(f"ds_config: DeepSpeed refuses it: {' '.join(str(error).split())}") from error

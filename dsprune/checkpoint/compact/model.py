"""Load a compact folder as a model in memory."""

from pathlib import Path

from transformers import GenerationConfig, PreTrainedModel

from dsprune.checkpoint.compact.reader import read_compact
from dsprune.errors import UserError
from dsprune.model.pretrained import load_config, model_class
from dsprune.utils.text import first_line

__all__ = ["load_compact"]

_WAY_OUT = "use the version of transformers that wrote it, or dsprune.read_compact and a model of your own"


def load_compact(folder: str | Path) -> PreTrainedModel:
    """Load the model of a compact folder, as `from_pretrained` would load its original model folder.

    Args:
        folder: folder that `dsprune export --compact` wrote.

    Returns:
        The model of the architecture that config.json names, in evaluation mode.

    Raises:
        UserError: the folder is not a compact model, a file is missing, damaged or of another format, or
            transformers has no model for these tensors.
    """
    folder = Path(folder)
    tensors = read_compact(folder)
    try:
        config = load_config(str(folder))
        generates = (folder / "generation_config.json").is_file()
        model, found = model_class(folder, config).from_pretrained(
            None,
            config=config,
            generation_config=GenerationConfig.from_pretrained(folder) if generates else None,
            state_dict=tensors,
            dtype="auto",
            ignore_mismatched_sizes=True,  # they are in `found`
            output_loading_info=True,
        )
    except UserError:
        raise
    except Exception as error:  # a damaged config.json can raise any error
        reason = first_line(error)
        raise UserError(f"{folder}: transformers cannot build its model ({reason}): {_WAY_OUT}") from error
    wrong = {*found["missing_keys"], *found["unexpected_keys"], *(key[0] for key in found["mismatched_keys"])}
    if wrong:
        raise UserError(
            f"{folder}: does not hold the tensors of {type(model).__name__}, such as {min(wrong)} "
            f"({len(wrong)} differ): {_WAY_OUT}"
        )
    model.name_or_path = model.config.name_or_path = str(folder)
    loaded: PreTrainedModel = model
    return loaded

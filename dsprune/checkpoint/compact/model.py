"""From a compact folder back to a model: in memory, or as the usual model folder."""

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file
from transformers import GenerationConfig, PreTrainedModel

from dsprune.checkpoint.compact.format import carried_files, weight_file
from dsprune.checkpoint.compact.reader import CompactFiles, read_compact
from dsprune.checkpoint.file_list import MODEL_LIST, list_model_folder
from dsprune.errors import UserError
from dsprune.model.pretrained import load_config, model_class
from dsprune.utils.text import first_line

__all__ = ["expand_compact", "load_compact"]

INDEX = "model.safetensors.index.json"

_WAY_OUT = "use the version of transformers that wrote it, or dsprune.read_compact and a model of your own"


def load_compact(folder: str | Path) -> PreTrainedModel:
    """Load the model of a compact folder, as `from_pretrained` loads the model folder that it was made of.

    Args:
        folder: folder that `dsprune export --compact` wrote.

    Returns:
        The model of the architecture that config.json names, in evaluation mode.

    Raises:
        UserError: the folder is no compact model, a file is missing, damaged or of another format, or
            transformers has no model for these tensors.
    """
    folder = Path(folder)
    tensors = read_compact(folder)
    try:
        config = load_config(str(folder))
        model, found = model_class(folder, config).from_pretrained(
            None,
            config=config,
            generation_config=_generation_config(folder),
            state_dict=tensors,
            dtype="auto",
            ignore_mismatched_sizes=True,  # they are in `found`
            output_loading_info=True,
        )
    except UserError:
        raise
    except Exception as error:  # whatever the values of a damaged config.json lead to
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


def _generation_config(folder: Path) -> GenerationConfig | None:
    exists = (folder / "generation_config.json").is_file()
    return GenerationConfig.from_pretrained(folder) if exists else None


def expand_compact(folder: Path, to: Path) -> None:
    """Write the model folder that a compact folder was made of, one weight file at a time.

    Args:
        folder: folder that `dsprune export --compact` wrote.
        to: folder to write to, which is created if it is missing.

    Raises:
        UserError: the folder is no compact model, or a file is missing, damaged or of another format.
    """
    files = CompactFiles(folder)
    to.mkdir(parents=True, exist_ok=True)
    for name in carried_files(files.manifest.files, files.masks):
        shutil.copy(folder / name, to)
    file_of: dict[str, str] = {}
    size = 0
    for number, names in enumerate(files.names_by_file.values(), start=1):
        file = weight_file("model", number, len(files.names_by_file))
        tensors = {name: files.tensor(name) for name in names}
        save_file(tensors, to / file, metadata={"format": "pt"})
        file_of |= dict.fromkeys(names, file)
        size += sum(tensor.nbytes for tensor in tensors.values())
    if len(files.names_by_file) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": file_of}
        (to / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    if (to / MODEL_LIST).exists():
        list_model_folder(to)

"""The model card, README.md of a model folder: the model, its sparsity, how it was made, and how to load it."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from safetensors import safe_open

from dsprune.checkpoint.file_list import list_model_folder
from dsprune.checkpoint.made import Made
from dsprune.masks.manifest import MANIFEST, read_manifest
from dsprune.model.own import OWN_MODELS
from dsprune.recipe import Recipe
from dsprune.recipe.pattern import UNSTRUCTURED
from dsprune.utils.documents import write_yaml
from dsprune.utils.files import replace_text
from dsprune.utils.text import shareable

__all__ = ["CARD", "finish_folder", "write_card"]

CARD = "README.md"

MARK = "<!-- Written by dsprune, which replaces it when it writes the model again. Without this line, it does not. -->"

PIPELINES = {
    "ForSequenceClassification": "text-classification",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForConditionalGeneration": "translation",
    "MTModel": "translation",
}
"""The hub's names of tasks, by the ending of the name of a model's class."""


def finish_folder(folder: Path, made: Made) -> None:
    """List the files of a model folder, and write its card."""
    list_model_folder(folder)
    write_card(folder, made)


def write_card(folder: Path, made: Made) -> None:
    """Write the card of a model folder, after its other files. A card that dsprune did not write is kept."""
    path = folder / CARD
    if not path.exists() or MARK in path.read_text(encoding="utf-8", errors="replace"):
        replace_text(path, "\n".join(_lines(folder, made)) + "\n")


def _lines(folder: Path, made: Made) -> Iterator[str]:
    name = made.recipe.name if made.recipe else folder.name
    kind = _model_class(folder)
    yield from ("---", _metadata(name, kind, made), "---", "", f"# {name}", "", MARK, "")
    yield from _sparsity(folder, made.recipe)
    yield from ("", "## Results", "", *_results(made))
    yield from ("", "## Audit", "")
    yield shareable(made.audit or "") or "Not audited when this card was written."
    yield from (
        "",
        "`dsprune audit FOLDER` checks masks, zeros and checksums again.",
        "",
        "## Load",
        "",
        *_load(kind),
    )
    yield from ("", "## How it was made", "", *_origin(made))


def _metadata(name: str, kind: str | None, made: Made) -> str:
    """Return the metadata for the hub, as YAML."""
    recipe, pipeline = made.recipe, _pipeline(kind)
    task = recipe.task.name if recipe is not None and recipe.task is not None else "unknown"
    results = [
        EvalResult(pipeline or "other", task, task, metric, value) for metric, value in made.metrics.items()
    ]
    tags = ["dsprune", *(["sparse", "pruned"] if recipe is None or recipe.pruning is not None else [])]
    data = ModelCardData(
        base_model=_base_model(recipe),
        library_name="transformers" if kind else "safetensors",
        pipeline_tag=pipeline,
        tags=tags,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _base_model(recipe: Recipe | None) -> str | None:
    """Return the model's name on the hub; None for a folder, whose path is private."""
    path = recipe.model.path if recipe is not None and recipe.model is not None else ""
    is_name = path.count("/") == 1 and not path.startswith((".", "/", "~")) and not Path(path).exists()
    return path if is_name else None


def _model_class(folder: Path) -> str | None:
    """Return the model's class in transformers; None for any other model."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    names: list[str] = json.loads(path.read_text(encoding="utf-8")).get("architectures") or ["AutoModel"]
    return names[0]


def _pipeline(kind: str | None) -> str | None:
    return next((task for ending, task in PIPELINES.items() if kind and kind.endswith(ending)), None)


def _sparsity(folder: Path, recipe: Recipe | None) -> Iterator[str]:
    """Yield the sparsity of the folder's weights, in both conventions."""
    if not (folder / MANIFEST).is_file():
        yield "Dense: no weight was pruned."
        return
    manifest = read_manifest(folder)
    pruned, prunable, total = manifest.num_pruned, manifest.num_prunable, _num_weights(folder)
    pruning = None if recipe is None else recipe.pruning
    method = "" if pruning is None else f" by {pruning.method} scores"
    pattern = "" if manifest.pattern == UNSTRUCTURED.text else f" in the pattern {manifest.pattern}"
    yield f"Pruned{method}{pattern}. The zeros are exact, and the masks are in this folder."
    yield from ("", "| | zeros | weights | sparsity |", "|---|---:|---:|---:|")
    for what, count in (("prunable weights", prunable), ("all weights", total)):
        if count:
            yield f"| {what} | {pruned:,} | {count:,} | {100 * pruned / count:.2f} % |"
    yield from (
        "",
        "Zeros save time only on kernels that use them, and space only in compressed or compact form.",
    )


def _num_weights(folder: Path) -> int:
    """Return the number of weights of the folder's model."""
    count = 0
    for path in (*folder.glob("model.safetensors"), *folder.glob("model-*-of-*.safetensors")):
        with safe_open(path, "pt") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return count


def _results(made: Made) -> Iterator[str]:
    if not made.metrics:
        yield "Not evaluated when this card was written."
        return
    of = f", {made.num_examples:,} examples" if made.num_examples is not None else ""
    yield from (f"On the validation data{of}:", "", "| metric | value |", "|---|---:|")
    yield from (f"| {name} | {value:.4f} |" for name, value in made.metrics.items())


def _load(kind: str | None) -> Iterator[str]:
    yield "```python"
    if kind is None:
        yield from (
            "from safetensors.torch import load_file",
            "",
            'weights = load_file("FOLDER/model.safetensors")',
        )
    else:
        own = kind in OWN_MODELS
        yield f"from transformers import AutoTokenizer{'' if own else f', {kind}'}"
        yield from ([f"from {OWN_MODELS[kind]} import {kind}"] if own else [])
        yield ""
        yield from (
            f'model = {kind}.from_pretrained("FOLDER")',
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        )
    yield from ("```", "", 'In compact form (`dsprune export --compact`): `dsprune.load_compact("FOLDER")`.')


def _origin(made: Made) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    yield f"With {versions or 'dsprune'}{'' if made.command else ', in a script'}."
    if made.command:
        yield from ("", "```bash", shareable(made.command), "```")
    if made.recipe is not None:
        recipe = made.recipe.model_dump(mode="json", exclude_defaults=True)
        yield from ("", "The recipe, without defaults:", "", "```yaml")
        yield from (shareable(write_yaml(recipe)).rstrip("\n"), "```")

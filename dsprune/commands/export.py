"""`dsprune export`: write a checkpoint of a run as a model folder or in compact form, and expand the compact form."""

import shutil
from pathlib import Path

from rich.console import Console
from torch import nn

from dsprune.checkpoint.compact.format import Dtype, is_compact
from dsprune.checkpoint.compact.reader import expand_compact
from dsprune.checkpoint.compact.writer import write_compact
from dsprune.checkpoint.deepspeed_files import CheckpointFiles
from dsprune.checkpoint.model_card import finish_folder
from dsprune.checkpoint.model_folder import copy_masks, write_weights
from dsprune.checkpoint.tag_files import read_tag_manifest
from dsprune.checkpoint.tags import find_checkpoints, latest_tag
from dsprune.errors import UserError
from dsprune.masks.manifest import read_manifest
from dsprune.model.pretrained import load_tokenizer
from dsprune.model.trim import save_trimmed
from dsprune.model.vocabulary import Vocabulary, with_all_rows
from dsprune.recipe import Recipe, load_recipe
from dsprune.tasks.build import build_task
from dsprune.train.preflight import start_model
from dsprune.train.run_folder import RunFolder, made_by
from dsprune.utils.console import say
from dsprune.utils.dtypes import DTYPES
from dsprune.utils.files import replace_folder

__all__ = ["compact", "expand", "export"]


def export(path: Path, tag: str | None, to: Path, console: Console, *, trimmed: bool = False) -> None:
    """Write the model of a checkpoint of a run or a script atomically, with tokenizer, masks and recipe.

    The arguments are the options of `dsprune export`.

    Raises:
        UserError: the checkpoint does not exist, it is damaged, or `to` exists already.
    """
    run = RunFolder(path)
    checkpoint = find_checkpoint(run, tag)
    check_is_new(to)
    _say_if_older(run, checkpoint, tag, console)
    replace_folder(to, lambda temporary: write_model(run, checkpoint, temporary, trimmed=trimmed))
    say(console, f"{checkpoint} exported to {to}")


def _say_if_older(run: RunFolder, checkpoint: Path, tag: str | None, console: Console) -> None:
    """Print a line if the last checkpoint is incomplete and an older one is used."""
    last = latest_tag(checkpoint.parent) if tag is None else None
    if last is not None and checkpoint.parent / last not in find_checkpoints(run.path):
        say(console, f"{checkpoint.parent / last}: not complete: {checkpoint.name} is exported instead")


def check_is_new(to: Path) -> None:
    """Check that the target of an export does not exist.

    Raises:
        UserError: it exists.
    """
    if to.exists():
        raise UserError(f"--to: value {to}: exists already and is not overwritten: give another folder")


def write_model(run: RunFolder, checkpoint: Path, folder: Path, *, trimmed: bool = False) -> None:
    """Write the model of a run's checkpoint with tokenizer, masks and recipe, or of a script's with its files."""
    if run.recipe.is_file():
        _write_model_of_run(run, checkpoint, folder, trimmed=trimmed)
    elif trimmed:
        raise UserError(
            f"--trimmed: {run.path} is not a run of dsprune train, so all tokens are trained: leave it out"
        )
    else:
        write_weights(checkpoint, folder)
    finish_folder(folder, made_by(run, step=read_tag_manifest(checkpoint).step))


def _write_model_of_run(run: RunFolder, checkpoint: Path, folder: Path, *, trimmed: bool) -> None:
    recipe = load_recipe(str(run.recipe))
    _save_model(recipe, CheckpointFiles(checkpoint), run.vocabulary, folder, trimmed=trimmed)
    shutil.copy(run.recipe, folder)
    if recipe.pruning is not None:
        copy_masks(checkpoint, folder)


def find_checkpoint(run: RunFolder, tag: str | None) -> Path:
    """Return the folder of a run's checkpoint.

    Args:
        run: the run.
        tag: name of a checkpoint; None = the newest complete one.

    Raises:
        UserError: the checkpoint does not exist.
    """
    complete = {folder.name: folder for folder in find_checkpoints(run.path)}
    if not complete:
        raise UserError(f"{run.path}: no complete checkpoint there: give the folder of a run that has one")
    if tag is None:
        return next(iter(complete.values()))
    if tag not in complete:
        raise UserError(f"--tag: value {tag}: no such checkpoint: use one of {', '.join(complete)}")
    return complete[tag]


def _save_model(recipe: Recipe, files: CheckpointFiles, path: Path, folder: Path, *, trimmed: bool) -> None:
    assert recipe.model is not None, recipe.name
    assert recipe.task is not None, recipe.name
    tokenizer = load_tokenizer(recipe.model.tokenizer_path)
    task = build_task(recipe.task).for_tokenizer(tokenizer)
    model = start_model(task, recipe.model, tokenizer)
    vocabulary = Vocabulary.read(path) if recipe.model.vocabulary == "used" else None
    if vocabulary is not None:
        vocabulary.shorten(model)
    elif trimmed:
        raise UserError(
            "--trimmed: this run trains all tokens: leave it out, or train with model.vocabulary=used"
        )
    parameters = dict(model.named_parameters())
    for name in files.names:
        saved, place = files.views(name)["master weights"], parameters.get(name)
        if place is None or place.numel() != saved.numel():
            here = "none" if place is None else f"{place.numel():,}"
            raise UserError(
                f"{files.folder}: holds {saved.numel():,} weights {name}, and {recipe.model.path} has {here}: "
                f"use another checkpoint"
            )
        place.data.view(-1).copy_(saved)
    module: nn.Module = model
    module.to(DTYPES[recipe.precision])
    for parameter in module.parameters():
        parameter.data.add_(0.0)  # -0.0 from rounding becomes +0.0, as in the model that the run saves
    if vocabulary is not None and trimmed:
        return save_trimmed(model, tokenizer, vocabulary, folder)
    model.save_pretrained(folder, state_dict=with_all_rows(model, model.state_dict()))
    tokenizer.save_pretrained(folder)


def compact(source: Path, tag: str | None, dtype: Dtype | None, to: Path, console: Console) -> None:
    """Write the compact form of a run's checkpoint, or of a model folder with masks, atomically.

    The arguments are the options of `dsprune export --compact`.

    Raises:
        UserError: the checkpoint does not exist, no mask, a file is damaged, or `to` exists already.
    """
    check_is_new(to)
    if is_compact(source):
        raise UserError(f"{source}: is compact already: give the folder of a run, or of a model with masks")
    if (source / "config.json").is_file() or (source / "model.safetensors").is_file():
        if tag is not None:
            raise UserError(f"--tag: value {tag}: {source} is a model folder: leave --tag out, or give a run")
        replace_folder(to, lambda temporary: write_compact(source, temporary, dtype))
    else:
        run = RunFolder(source)
        checkpoint = find_checkpoint(run, tag)
        _say_if_older(run, checkpoint, tag, console)
        read_manifest(checkpoint)  # so that a run without masks is refused before anything is written

        def write(temporary: Path) -> None:
            model = temporary / "model"
            write_model(run, checkpoint, model)
            write_compact(model, temporary, dtype)
            shutil.rmtree(model)

        replace_folder(to, write)
    size = sum(path.stat().st_size for path in to.iterdir())
    say(console, f"{source} exported to {to}: {size:,} bytes in all")


def expand(source: Path, to: Path, console: Console) -> None:
    """Write the original model folder of a compact folder, atomically.

    Raises:
        UserError: `source` is not a compact model, a file is damaged, or `to` exists already.
    """
    check_is_new(to)
    replace_folder(to, lambda temporary: expand_compact(source, temporary))
    say(console, f"{source} expanded to {to}")

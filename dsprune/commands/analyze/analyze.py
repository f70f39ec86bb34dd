"""`dsprune analyze`: measure the cost and the benefit of pruning each component of a model, and of unused rows."""

import math
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from transformers import PreTrainedModel

from dsprune.commands.analyze.measure import Evaluator, Extent, layers_of, set_up
from dsprune.commands.analyze.page_sections import analysis_section, component_table
from dsprune.commands.analyze.result import RULE, Analysis, UnusedRows, write_analysis
from dsprune.errors import UserError
from dsprune.model.components import find_components
from dsprune.model.pretrained import load_tokenizer
from dsprune.model.prunable import choose_weights
from dsprune.model.vocabulary import Vocabulary, num_missing
from dsprune.ranks.agreement import on_first_rank
from dsprune.ranks.group import process_group
from dsprune.ranks.ranks import Ranks
from dsprune.recipe import Model, Recipe
from dsprune.report.page import Page, write_report
from dsprune.report.table import show
from dsprune.tasks.examples import tokens_in
from dsprune.utils.console import progress_bar, say
from dsprune.utils.dtypes import DTYPES
from dsprune.utils.files import replace_text
from dsprune.utils.installation import command_line, versions
from dsprune.utils.text import percent

__all__ = ["analyze", "leave_out_unused_rows", "make_analysis"]


def analyze(recipe: Recipe, extent: Extent, output: Path | None, ranks: Ranks, console: Console) -> None:
    """Analyse the recipe's model; print and write the result. Collective: every rank must call this.

    The arguments are the options of `dsprune analyze`.

    Raises:
        UserError: a section is missing in the recipe, its model is not trained for the task, or the metric of the model
            is NaN.
    """
    folder = output or Path(recipe.output, f"{recipe.name}-analysis")
    with process_group(ranks) as device:
        on_first_rank(lambda: folder.mkdir(parents=True, exist_ok=True))  # before minutes of work
        analysis = make_analysis(recipe, extent, device, console)
    if not ranks.is_first:
        return
    write_analysis(analysis, folder)
    replace_text(folder / "fragment.yaml", analysis.fragment())
    files = write_report(_page(analysis), folder)
    show(component_table(analysis), console)
    for line in (RULE, analysis.recommendation()):
        say(console, line)
    for line in ("", *analysis.fragment().splitlines()):
        say(console, line)
    for path in files:
        say(console, f"written: {path}")


def make_analysis(recipe: Recipe, extent: Extent, device: torch.device, console: Console) -> Analysis:
    """Measure every component of the recipe's model. Collective: every rank must call this.

    Arguments and errors as for `analyze`; `device` is this rank's.
    """
    if recipe.pruning is None:
        raise UserError(f"recipe {recipe.name!r}: an analysis needs a target: add pruning.sparsity")
    target = recipe.pruning.sparsity
    evaluator = set_up(recipe, extent, device)
    assert recipe.model is not None
    assert recipe.task is not None
    chosen = recipe.pruning.include, recipe.pruning.exclude, None, recipe.pruning.only
    prunable = frozenset(tensor.name for tensor in choose_weights(evaluator.model, *chosen).tensors)
    components = find_components(evaluator.model)
    flops = evaluator.flops(recipe.task.max_length)
    metric, dense = next(iter(evaluator.metrics().items()))
    if math.isnan(dense):
        raise UserError(
            f"model.path={recipe.model.path}: its {metric} is nan, as of equal predictions, so no loss can be "
            f"measured: give a model that is trained for the task"
        )
    levels = sorted({target, *extent.sparsities})
    with progress_bar(console) as progress:
        total = len(levels) * len(components)
        total += sum(len(layers_of(component)) for component in components) if extent.layers else 0
        bar = progress.add_task("analyze", total=total)
        findings = [
            evaluator.finding(component, levels, target, flops, prunable, lambda: progress.advance(bar))
            for component in components
        ]
        measured = components if extent.layers else []
        losses = evaluator.layer_losses(measured, target, lambda: progress.advance(bar))
    unused = leave_out_unused_rows(evaluator, recipe.model)  # the last measurement: it changes the model
    known = versions()
    return Analysis(
        recipe=recipe.name,
        model=recipe.model.path,
        task=recipe.task.name,
        metric=metric,
        dense=dense,
        num_examples=len(evaluator.data),
        length=recipe.task.max_length,
        target=target,
        num_weights=sum(component.num_weights for component in components),
        flops=flops.total,
        weight_bytes=DTYPES[recipe.precision].itemsize,
        recovery_steps=extent.recovery_steps,
        findings=tuple(findings),
        layers=losses,
        origin=f"{command_line()} · seed {recipe.seed} · " + ", ".join(f"{k} {v}" for k, v in known.items()),
        unused=unused,
    )


def _page(analysis: Analysis) -> Page:
    facts = {
        f"{analysis.metric}, dense": f"{analysis.dense:.4f}",
        "weights": f"{analysis.num_weights:,}",
        "prunable": percent(analysis.num_prunable / analysis.num_weights),
        f"GFLOPs of {analysis.length} tokens": f"{analysis.flops / 1e9:.3f}",
        "target": percent(analysis.target),
    }
    lead = "What pruning each component of the model saves, and what it costs."
    return Page(f"{analysis.recipe}, analysed", lead, facts, (analysis_section(analysis),), analysis.origin)


def leave_out_unused_rows(evaluator: Evaluator, settings: Model) -> UnusedRows | None:
    """Remove the unused rows from the evaluator's model, in place, and measure it again.

    Collective: every rank must call this.

    Returns:
        The measurement; None = no rows of this model can be left out.
    """
    model = cast(PreTrainedModel, evaluator.model.cpu())
    tokenizer = load_tokenizer(settings.tokenizer_path)
    data = (evaluator.task.prepare("train", tokenizer), evaluator.data)
    try:
        vocabulary = Vocabulary.used(model, tokenizer, map(tokens_in, data))
    except UserError:
        return None
    vocabulary.shorten(model, keep_others=False)
    evaluator.model.to(evaluator.device)
    return UnusedRows(
        num_kept=len(vocabulary.kept),
        num_rows=vocabulary.size,
        num_weights=num_missing(model),
        score=evaluator.score(),
    )

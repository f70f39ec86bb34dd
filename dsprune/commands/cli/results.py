"""Commands that evaluate, check and show results."""

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from dsprune.commands.cli.main import Overrides, RecipeArgument, app, between_0_and_1
from dsprune.errors import UserError
from dsprune.utils.console import starting

__all__ = ["analyze", "audit", "evaluate", "export", "report", "status"]


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A Hugging Face model folder or hub name.")],
    overrides: Overrides = None,
    task: Annotated[str, typer.Option(help="Name of the task.")] = "text-classification",
    batch_size: Annotated[int, typer.Option(min=1, help="Examples per forward pass and rank.")] = 32,
) -> None:
    """Evaluate any Hugging Face model folder on a task; data as overrides, such as `validation=dev.csv`."""
    from dsprune.ranks.ranks import find_ranks
    from dsprune.recipe import load_task

    settings, ranks = load_task(task, overrides or []), find_ranks()
    with starting(is_first=ranks.is_first):
        from dsprune.train.evaluation import evaluate_command

    metrics = evaluate_command(model, settings, batch_size, ranks)
    if metrics is not None:
        print(json.dumps(metrics))


@app.command()
def audit(
    path: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a run, a checkpoint, a model or a store.")
    ],
) -> None:
    """Check every invariant of a pruned run; name the tensor that violates one, and exit with 1."""
    from dsprune.commands.audit import audit as check

    check(path, Console())


@app.command()
def analyze(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    sparsity: Annotated[
        list[float] | None,
        typer.Option(
            callback=between_0_and_1, help="Another sparsity to prune to, beside the recipe's target."
        ),
    ] = None,
    recovery_steps: Annotated[
        int, typer.Option(min=0, help="Train for this many steps, then measure again.")
    ] = 0,
    layers: Annotated[bool, typer.Option(help="Prune each component of each layer separately, too.")] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples per forward pass and rank.")] = 32,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to. Default: runs/NAME-analysis.")
    ] = None,
) -> None:
    """Show the benefit and the cost of pruning each component of a trained model."""
    from dsprune.ranks.ranks import find_ranks
    from dsprune.recipe import load_recipe

    loaded, ranks = load_recipe(recipe, overrides or []), find_ranks()
    with starting(is_first=ranks.is_first):
        from dsprune.commands.analyze.analyze import analyze as examine
        from dsprune.commands.analyze.measure import Extent

    more = (0.5, 0.7, 0.8) if sparsity is None else tuple(sparsity)
    console = Console(quiet=not ranks.is_first)
    examine(loaded, Extent(more, recovery_steps, layers, batch_size), output, ranks, console)


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Folders of runs, or folders that contain some.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to. Default: the run's, or report/ for several.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    audit: Annotated[bool, typer.Option(help="Audit the runs, too.")] = True,
) -> None:
    """Write a report of runs: one page that needs no network, and tables in Markdown and CSV."""
    from dsprune.commands.report import report as write

    write(runs, output, title, audit, Console())


@app.command()
def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="The folder of a run, finished or not; with --compact, also of a model with masks; "
            "with --expand, of a compact model.",
        ),
    ],
    to: Annotated[Path | None, typer.Option(help="The folder to create; required without --push.")] = None,
    tag: Annotated[str | None, typer.Option(help="Name of a checkpoint. Default: the newest.")] = None,
    compact: Annotated[
        bool, typer.Option("--compact", help="Write packed masks and kept values, instead of all weights.")
    ] = False,
    expand: Annotated[
        bool, typer.Option("--expand", help="Write a compact folder as a model folder.")
    ] = False,
    trimmed: Annotated[
        bool, typer.Option("--trimmed", help="Leave out the tokens that model.vocabulary=used left out.")
    ] = False,
    dtype: Annotated[
        Literal["fp16", "bf16"] | None,
        typer.Option(help="With --compact: round all weights to this number format. Default: as trained."),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Upload the folder to this repository of the hub."),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="With --push: make the repository public if it is new.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option(help="With --push: list what would be uploaded; upload nothing.")
    ] = False,
) -> None:
    """Write a checkpoint of a run as a Hugging Face model folder with its masks, or in compact form; upload it."""
    for is_wrong, message in (
        (
            dtype and not compact,
            f"--dtype: value {dtype}: only for compact models: add --compact, or leave it out",
        ),
        (
            trimmed and (compact or expand),
            "--trimmed: only for model folders: leave it out, or make the trimmed folder compact with a second export",
        ),
        (
            expand and (compact or tag),
            f"--expand: value {source}: takes neither --compact nor --tag: leave them out",
        ),
        (
            push is None and to is None,
            f"--to: value missing: give --to FOLDER to write {source}, or --push OWNER/NAME to upload it",
        ),
        (
            push is None and (public or dry_run),
            "--push: value missing: --public and --dry-run need it: add --push OWNER/NAME, or leave them out",
        ),
    ):
        if is_wrong:
            raise UserError(message)
    with starting():
        from dsprune.commands import export as write
        from dsprune.commands.push import check_repository, upload

    if push is not None:
        check_repository(push)
    console = Console(quiet=to is None)  # a folder that is only for the upload is removed
    with contextlib.ExitStack() as stack:
        if to is None:
            to = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dsprune-")), "model")
        if compact:
            write.compact(source, tag, dtype, to, console)
        elif expand:
            write.expand(source, to, console)
        else:
            write.export(source, tag, to, console, trimmed=trimmed)
        if push is not None:
            upload(to, push, Console(), public=public, dry_run=dry_run)


@app.command()
def status(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Folders of runs, or folders that contain some.")
    ],
) -> None:
    """Show the progress of runs, as their folders record it."""
    from dsprune.commands.status import status as show

    show(runs, Console())

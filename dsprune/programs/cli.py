"""The commands. Each imports what it needs when it is called, so that `--help` is instant."""

import errno
import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from dsprune.errors import CheckFailedError, RunFailedError, StoppedError, UserError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Gradual magnitude pruning of language models inside DeepSpeed ZeRO.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

RecipeArgument = Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped recipe.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Recipe values.")]


@app.command()
def plan(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    world_size: Annotated[int, typer.Option(min=1, help="Number of ranks.")] = 1,
    stage: Annotated[int | None, typer.Option(min=0, max=3, help="ZeRO stage; else the ds_config's.")] = None,
    train_examples: Annotated[int | None, typer.Option(min=1, help="Size of the training data.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw sparsity and learning rate to this file.")] = None,
    target: Annotated[
        list[float] | None, typer.Option(help="Compare this target with others; may be given several times.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Which target are so many steps sound for?")
    ] = None,
) -> None:
    """Print the timetable, memory, and bytes on the wire of a recipe; run nothing."""
    from dsprune.programs.plan.plan import plan as print_plan
    from dsprune.pure.recipe import load_recipe

    if target or steps is not None:
        from dsprune.programs.plan.targets import plan_targets, say_sound_target

        loaded = load_recipe(recipe, overrides or [])
        if target:
            plan_targets(loaded, target, world_size, train_examples, plot, Console())
        if steps is not None:
            say_sound_target(loaded, steps, world_size, train_examples, Console())
        return
    print_plan(load_recipe(recipe, overrides or []), world_size, stage, train_examples, plot, Console())


@app.command()
def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with this run, or from this checkpoint; else with the recipe's own."),
    ] = None,
    masks_from: Annotated[
        Literal["zeros", "none"] | None,
        typer.Option(help="Weights that are zero and have no masks: keep them zero, or let them grow back."),
    ] = None,
    stop_after: Annotated[
        str | None, typer.Option(help="Stop with a checkpoint after so long: 90s, 30m, 2h, 1d or H:MM:SS.")
    ] = None,
) -> None:
    """Fine-tune, and prune on the way; on one process, or many under the deepspeed launcher.

    The same command again goes on with a run that was interrupted.
    """
    from dsprune.distributed.ranks import find_ranks
    from dsprune.programs.quiet import quiet
    from dsprune.pure.duration import parse_duration
    from dsprune.pure.recipe import load_recipe

    for number in (signal.SIGTERM, signal.SIGUSR1):  # until there is something to save
        signal.signal(number, lambda *_: sys.exit(75))
    seconds = None if stop_after is None else parse_duration("--stop-after", stop_after)
    loaded, ranks = load_recipe(recipe, overrides or []), find_ranks()
    quiet(ranks)
    from dsprune.programs.train.train import train as run_recipe

    run_recipe(loaded, ranks, Console(stderr=True), resume=resume, masks_from=masks_from, stop_after=seconds)


@app.command()
def stop(run: Annotated[Path, typer.Argument(help="The folder of a run.")]) -> None:
    """Ask a run to stop with a checkpoint; `dsprune train` goes on with it."""
    from dsprune.programs.stop import stop as ask

    ask(run, Console())


@app.command()
def teacher(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples of a forward pass on a rank.")] = 32,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="Number format of the teacher's weights.")
    ] = "fp32",
    stage: Annotated[
        Literal["0", "3"], typer.Option(help="ZeRO stage; 3 = the teacher is larger than a device.")
    ] = "0",
) -> None:
    """Run the teacher over the training data, and store what it says; on one process or many."""
    from dsprune.distributed.ranks import find_ranks
    from dsprune.programs.quiet import quiet
    from dsprune.pure.recipe import load_recipe

    loaded, ranks = load_recipe(recipe, overrides or []), find_ranks()
    quiet(ranks)
    from dsprune.programs.teacher.teacher import teacher as ask

    ask(loaded, batch_size, precision, int(stage), ranks, Console(stderr=True))


@app.command()
def calibrate(
    store: Annotated[Path, typer.Argument(help="A teacher's store.")],
    overrides: Overrides = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe whose training data give the labels.")] = None,
    max_records: Annotated[int | None, typer.Option(min=1, help="Look at so many; else at all.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves to this file.")] = None,
    write: Annotated[Path | None, typer.Option(help="Recipe file to write the temperature into.")] = None,
) -> None:
    """Choose the temperature to distil with, from a teacher's store."""
    from dsprune.distributed.ranks import find_ranks
    from dsprune.programs.quiet import quiet
    from dsprune.pure.recipe import load_recipe

    if overrides and recipe is None:
        raise UserError(f"override {overrides[0]!r}: there is no recipe to override: give --recipe")
    loaded, ranks = load_recipe(recipe, overrides or []) if recipe else None, find_ranks()
    quiet(ranks)
    from dsprune.programs.calibrate.calibrate import calibrate as choose

    if ranks.is_first:
        choose(store, loaded, plot, write, max_records, Console())


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="A Hugging Face model folder or hub name.")],
    overrides: Overrides = None,
    task: Annotated[str, typer.Option(help="Name of the task.")] = "text-classification",
    batch_size: Annotated[int, typer.Option(min=1, help="Examples of a forward pass on a rank.")] = 32,
) -> None:
    """Evaluate any Hugging Face model folder on a task; data as overrides, such as `validation=dev.csv`."""
    from dsprune.distributed.ranks import find_ranks
    from dsprune.programs.quiet import quiet
    from dsprune.pure.recipe import load_task

    settings, ranks = load_task(task, overrides or []), find_ranks()
    quiet(ranks)
    from dsprune.programs.evaluate import evaluate_command

    metrics = evaluate_command(model, settings, batch_size, ranks)
    if metrics is not None:
        print(json.dumps(metrics))


@app.command()
def audit(path: Annotated[Path, typer.Argument(help="A run, a checkpoint or a model folder.")]) -> None:
    """Check every invariant of a pruned run; exit with 1 and name the tensor when one does not hold."""
    from dsprune.programs.audit import audit as check

    check(path, Console())


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run, finished or not.")],
    to: Annotated[Path, typer.Option(help="The folder to make.")],
    tag: Annotated[str | None, typer.Option(help="Name of a checkpoint; else the newest.")] = None,
) -> None:
    """Write a checkpoint of a run as a Hugging Face model folder, with its masks."""
    from dsprune.programs.export import export as write

    write(run, tag, to, Console())


@app.command()
def submit(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    nodes: Annotated[int, typer.Option(min=1, help="Number of nodes of each job.")] = 1,
    gpus_per_node: Annotated[
        int | None,
        typer.Option(min=0, help="GPUs of each node; 0 = one rank a node, on CPU; else the script's."),
    ] = None,
    time: Annotated[str | None, typer.Option(help="Longest time of each job; else the script's.")] = None,
    partition: Annotated[str | None, typer.Option(help="Partition; else the cluster's default.")] = None,
    array: Annotated[str | None, typer.Option(help="Sparsities, a run each: 0.5,0.8,0.9,0.95,0.97.")] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(help="One more option for sbatch, such as --sbatch=--account=nlp.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Check, and print the commands; submit nothing.")] = False,
) -> None:
    """Submit a recipe to Slurm: its teacher's store if there is none yet, then its training."""
    from dsprune.programs.submit.cluster import Request
    from dsprune.programs.submit.submit import submit as hand_over

    request = Request(nodes, gpus_per_node, time, partition)
    hand_over(recipe, overrides or [], request, array, sbatch or [], Console(), dry_run=dry_run)


@app.command()
def status(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
) -> None:
    """Tell where runs stand, from their folders alone."""
    from dsprune.programs.status.status import status as show

    show(runs, Console())


@app.command()
def data(
    task: Annotated[str | None, typer.Argument(help="Name of the task; else all are listed.")] = None,
    overrides: Overrides = None,
    path: Annotated[Path | None, typer.Option(help="A local copy to check: its folder.")] = None,
) -> None:
    """Tell where a task's data come from, under which licence, and how many there are; check a local copy."""
    from dsprune.distributed.ranks import find_ranks
    from dsprune.programs.data import check_copy, describe, list_tasks
    from dsprune.programs.quiet import quiet
    from dsprune.pure.recipe import load_task

    quiet(find_ranks())
    if task is None:
        return list_tasks(Console())
    settings = load_task(task, overrides or [])
    describe(settings, Console())
    if path is not None:
        check_copy(settings, path, Console())


@app.command()
def analyze(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    sparsity: Annotated[
        list[float] | None, typer.Option(min=0, max=1, help="Prune to this too, beside the recipe's target.")
    ] = None,
    recovery_steps: Annotated[int, typer.Option(min=0, help="Train so long, then measure again.")] = 0,
    layers: Annotated[bool, typer.Option(help="Prune each component of each layer by itself, too.")] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples of a forward pass on a rank.")] = 32,
    output: Annotated[Path | None, typer.Option(help="Folder to write into; else beside the run's.")] = None,
) -> None:
    """Table what pruning each component of a trained model buys, and what it costs."""
    from dsprune.distributed.ranks import find_ranks
    from dsprune.programs.quiet import quiet
    from dsprune.pure.recipe import load_recipe

    loaded, ranks = load_recipe(recipe, overrides or []), find_ranks()
    quiet(ranks)
    from dsprune.programs.analyze.analyze import analyze as examine

    more = sparsity if sparsity is not None else [0.5, 0.7, 0.8]
    examine(loaded, more, recovery_steps, layers, batch_size, output, ranks, Console())


@app.command()
def suite(
    name: Annotated[str, typer.Argument(help="A shipped suite, such as guidelines, or a YAML file.")],
    recipe: Annotated[str | None, typer.Argument(help="The recipe that it changes; else its own.")] = None,
    overrides: Overrides = None,
    methods: Annotated[list[str] | None, typer.Option(help="Run this method; else all.")] = None,
    sparsity: Annotated[list[float] | None, typer.Option(help="A target; else the suite's.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 1,
    output: Annotated[Path | None, typer.Option(help="Folder for all of it; else runs/NAME.")] = None,
    num_ranks: Annotated[int, typer.Option(min=1, help="Processes of each run, on this host.")] = 1,
    dry_run: Annotated[bool, typer.Option(help="Print the runs' commands only.")] = False,
) -> None:
    """Run a grid of methods, sparsities and seeds; finished runs are kept, and a report is written."""
    from dsprune.programs.suite.suite import suite as run_suite

    chosen, targets = methods or [], sparsity or []
    run_suite(name, recipe, overrides or [], chosen, targets, seeds, output, num_ranks, dry_run, Console())


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders with such below.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder to write into; else the one run's, or report/ for several.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    audit: Annotated[bool, typer.Option(help="Audit the runs too.")] = True,
) -> None:
    """Write what runs did as one page that needs no network, and as tables in Markdown and CSV."""
    from dsprune.programs.report.report import report as write

    write(runs, output, title, audit, Console())


@app.command()
def doctor(
    build_ops: Annotated[bool, typer.Option(help="Build DeepSpeed's extensions for this machine.")] = False,
) -> None:
    """Tell what this machine can run: torch, DeepSpeed, ranks, Slurm, wandb."""
    from dsprune.programs.doctor.doctor import doctor as examine

    raise typer.Exit(examine(Console(), build_ops=build_ops))


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors that complete and check YAML."""
    from dsprune.pure.recipe import recipe_schema

    print(json.dumps(recipe_schema(), indent=2))


def main() -> None:
    """Run a command. Exit codes: 0 done, 1 a check failed, 2 bad input, 75 stopped early, to be resumed."""
    # A terminated process unwinds, so that temporary files go.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(_run(_without_local_rank(sys.argv[1:])))


def _run(arguments: list[str]) -> int:
    try:
        return int(app(arguments or ["--help"], prog_name="dsprune", standalone_mode=False) or 0)
    except UserError as error:
        _complain(str(error))
        return 2
    except CheckFailedError as error:
        _complain(str(error))
        return 1
    except RunFailedError as error:  # each rank has a reason of its own
        print(f"dsprune: rank {os.environ.get('RANK', '0')}: {error}", file=sys.stderr)
        return 1
    except StoppedError as error:
        _complain(str(error))
        return 75
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"dsprune: {error}: make room, and give the same command again", file=sys.stderr)
        return 1
    except typer.TyperException as error:
        _complain(error.format_message())
        return 2
    except (typer.Abort, KeyboardInterrupt):
        _complain("interrupted")
        return 130


def _complain(message: str) -> None:
    """One line on a host, not one a rank."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"dsprune: {message}", file=sys.stderr)


def _without_local_rank(arguments: list[str]) -> list[str]:
    """The deepspeed launcher puts `--local_rank=N` among the arguments; the environment says it too."""
    return [argument for argument in arguments if not argument.startswith(("--local_rank", "--local-rank"))]

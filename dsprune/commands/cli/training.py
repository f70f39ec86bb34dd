"""Commands that plan runs, and run."""

import signal
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from dsprune.commands.cli.app import Overrides, RecipeArgument, app
from dsprune.errors import EXIT_STOPPED, UserError
from dsprune.utils.signals import exit_on_signals

__all__ = ["calibrate", "plan", "stop", "suite", "teacher", "train"]


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
    from dsprune.commands.plan.plan import plan as print_plan
    from dsprune.recipe import load_recipe

    if target or steps is not None:
        from dsprune.commands.plan.targets import plan_targets, print_max_target

        loaded = load_recipe(recipe, overrides or [])
        if target:
            plan_targets(loaded, target, world_size, train_examples, plot, Console())
        if steps is not None:
            print_max_target(loaded, steps, world_size, train_examples, Console())
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
    from dsprune.ranks.ranks import find_ranks
    from dsprune.recipe import load_recipe
    from dsprune.utils.console import quiet_libraries
    from dsprune.utils.text import parse_duration

    exit_on_signals((signal.SIGTERM, signal.SIGUSR1), code=EXIT_STOPPED)
    seconds = None if stop_after is None else parse_duration("--stop-after", stop_after)
    loaded, ranks = load_recipe(recipe, overrides or []), find_ranks()
    quiet_libraries(is_first=ranks.is_first)
    from dsprune.train.train import train as run_recipe

    run = run_recipe(
        loaded, ranks, Console(stderr=True), resume=resume, masks_from=masks_from, stop_after=seconds
    )
    if ranks.is_first:
        from dsprune.report.report import report_run

        report_run(run.path)


@app.command()
def stop(run: Annotated[Path, typer.Argument(help="The folder of a run.")]) -> None:
    """Ask a run to stop with a checkpoint; `dsprune train` goes on with it."""
    from dsprune.commands.stop import stop as ask

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
    from dsprune.ranks.ranks import find_ranks
    from dsprune.recipe import load_recipe
    from dsprune.utils.console import quiet_libraries

    loaded, ranks = load_recipe(recipe, overrides or []), find_ranks()
    quiet_libraries(is_first=ranks.is_first)
    from dsprune.commands.teacher import teacher as ask

    ask(loaded, batch_size, precision, int(stage), ranks, Console(stderr=True))


@app.command()
def calibrate(
    store: Annotated[Path, typer.Argument(help="A teacher's store.")],
    overrides: Overrides = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe whose training data give the labels.")] = None,
    max_records: Annotated[
        int | None, typer.Option(min=1, help="Look at so many; else at 67 million logits.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves to this file.")] = None,
    write: Annotated[Path | None, typer.Option(help="Recipe file to write the temperature into.")] = None,
) -> None:
    """Choose the temperature to distil with, from a teacher's store."""
    from dsprune.ranks.ranks import find_ranks
    from dsprune.recipe import load_recipe
    from dsprune.utils.console import quiet_libraries

    if overrides and recipe is None:
        raise UserError(f"override {overrides[0]!r}: there is no recipe to override: give --recipe")
    loaded, ranks = load_recipe(recipe, overrides or []) if recipe else None, find_ranks()
    quiet_libraries(is_first=ranks.is_first)
    from dsprune.commands.calibrate.calibrate import calibrate as choose

    if ranks.is_first:
        choose(store, loaded, plot, write, max_records, Console())


@app.command()
def suite(
    name: Annotated[str, typer.Argument(help="A shipped suite, such as guidelines, or a YAML file.")],
    recipe: Annotated[
        str | None, typer.Argument(help="The recipe that it changes; else its own recipes.")
    ] = None,
    overrides: Overrides = None,
    methods: Annotated[list[str] | None, typer.Option(help="Run this method; else all.")] = None,
    sparsity: Annotated[list[float] | None, typer.Option(help="A target; else the suite's.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 1,
    output: Annotated[Path | None, typer.Option(help="Folder for all of it; else runs/NAME.")] = None,
    num_ranks: Annotated[int, typer.Option(min=1, help="Processes of each run, on this host.")] = 1,
    part: Annotated[int | None, typer.Option(min=0, help="Run this part only, as Slurm's jobs do.")] = None,
    slurm: Annotated[bool, typer.Option(help="Submit it as Slurm arrays, a job a run.")] = False,
    gpus_per_node: Annotated[
        int | None, typer.Option(min=0, help="With --slurm: GPUs of each job; 0 = CPU; else the script's.")
    ] = None,
    time: Annotated[str | None, typer.Option(help="With --slurm: longest time of each job.")] = None,
    partition: Annotated[str | None, typer.Option(help="With --slurm: partition.")] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(help="With --slurm: one more option for sbatch.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the commands only.")] = False,
) -> None:
    """Run a grid of methods, sparsities and seeds; finished runs are kept, and a report is written."""
    from dsprune.commands.suite.suite import Choice, suite_part
    from dsprune.commands.suite.suite import suite as run_suite

    chosen, targets, values = tuple(methods or ()), tuple(sparsity or ()), tuple(overrides or ())
    choice = Choice(name, recipe, values, chosen, targets, seeds, output)
    asked = {"gpus-per-node": gpus_per_node, "time": time, "partition": partition, "sbatch": sbatch}
    given = [f"--{option}" for option, value in asked.items() if value is not None]
    if given and not slurm:
        raise UserError(f"{', '.join(given)}: for jobs of Slurm: add --slurm, or leave out")
    if slurm:
        from dsprune.commands.submit.cluster import Request
        from dsprune.commands.suite.suite import submit_suite

        request = Request(1, gpus_per_node, time, partition)
        submit_suite(choice, request, sbatch or [], dry_run, Console())
    elif part is not None:
        suite_part(choice, part, num_ranks, Console())
    else:
        run_suite(choice, num_ranks, dry_run, Console())

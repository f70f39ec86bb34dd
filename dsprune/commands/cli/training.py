"""Commands that plan and train."""

import signal
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from dsprune.commands.cli.main import (
    Overrides,
    RecipeArgument,
    app,
    between_0_and_1,
    refuse_ranks,
    refuse_unused,
)
from dsprune.errors import EXIT_STOPPED, UserError
from dsprune.utils.console import starting, waiting
from dsprune.utils.signals import END_SIGNALS, exit_on_signals

__all__ = ["calibrate", "convert", "plan", "run_script", "stop", "suite", "teacher", "train"]

MasksFromOption = Annotated[
    Literal["zeros", "none"] | None,
    typer.Option(
        help="What to do with weights that are zero and have no masks: keep them zero, or train them."
    ),
]


@app.command()
def plan(
    context: typer.Context,
    recipe: RecipeArgument,
    overrides: Overrides = None,
    world_size: Annotated[int, typer.Option(min=1, help="Number of ranks.")] = 1,
    stage: Annotated[
        int | None, typer.Option(min=0, max=3, help="ZeRO stage. Default: the ds_config's.")
    ] = None,
    train_examples: Annotated[
        int | None, typer.Option(min=1, help="Number of training examples, to plan without the data.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw sparsity and learning rate into this file.")] = None,
    target: Annotated[
        list[float] | None,
        typer.Option(
            callback=between_0_and_1, help="A target to compare with others; may be given several times."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Print the highest target for which this many steps are enough.")
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Print other settings that are worth a try.")
    ] = False,
) -> None:
    """Check a recipe as training would; print its timetable, memory and communication; run nothing."""
    from dsprune.recipe import load_recipe

    if target or steps is not None:
        plan_only = ("stage", "sweep") if target else ("stage", "sweep", "plot")
        refuse_unused(
            context, "for the plan of the recipe itself: leave out --target and --steps", *plan_only
        )
    with starting():
        from dsprune.commands.plan.plan import plan as print_plan
        from dsprune.commands.plan.targets import plan_targets, print_max_target

    loaded = load_recipe(recipe, overrides or [])
    if target:
        plan_targets(loaded, target, world_size, train_examples, plot, Console())
    if steps is not None:
        print_max_target(loaded, steps, world_size, train_examples, Console())
    if not target and steps is None:
        print_plan(loaded, world_size, stage, train_examples, plot, Console(), sweep=sweep)


@app.command()
def convert(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A recipe of SparseML or llm-compressor, or a ds_config.")
    ],
    overrides: Overrides = None,
    write: Annotated[Path | None, typer.Option(help="Write the recipe into this file.")] = None,
) -> None:
    """Turn a recipe of SparseML or llm-compressor, or a ds_config, into a recipe; name all it cannot say."""
    from dsprune.commands.convert.convert import convert as convert_recipe

    convert_recipe(file, overrides or [], write, Console())


@app.command()
def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    resume: Annotated[
        Path | None, typer.Option(help="Resume this run or this checkpoint. Default: the recipe's own run.")
    ] = None,
    masks_from: MasksFromOption = None,
    stop_after: Annotated[
        str | None, typer.Option(help="Stop with a checkpoint after this time: 90s, 30m, 2h, 1d or H:MM:SS.")
    ] = None,
) -> None:
    """Fine-tune and prune; in one process, or in many under the deepspeed launcher.

    The same command again resumes a run that was interrupted.
    """
    from dsprune.ranks.ranks import find_ranks
    from dsprune.recipe import load_recipe
    from dsprune.utils.text import parse_duration

    exit_on_signals((*END_SIGNALS, signal.SIGUSR1), code=EXIT_STOPPED)
    seconds = None if stop_after is None else parse_duration("--stop-after", stop_after)
    loaded, ranks = load_recipe(recipe, overrides or []), find_ranks()
    with starting(is_first=ranks.is_first):
        from dsprune.train.train import train as run_recipe

    console = Console(stderr=True, quiet=not ranks.is_first)
    run = run_recipe(loaded, ranks, console, resume=resume, masks_from=masks_from, stop_after=seconds)
    if ranks.is_first:
        from dsprune.commands.report import report_run

        with waiting(console, "auditing the model and writing the report"):
            report_run(run.path)


@app.command("run", context_settings={"allow_extra_args": True, "allow_interspersed_args": False})
def run_script(
    context: typer.Context,
    script: Annotated[
        Path,
        typer.Argument(
            metavar="SCRIPT", exists=True, dir_okay=False, help="A script that trains with DeepSpeed."
        ),
    ],
    recipe: Annotated[str, typer.Option(help="A recipe file, or the name of a shipped recipe.")],
    steps_per_epoch: Annotated[
        int | None,
        typer.Option(min=1, help="Optimizer steps per epoch, if the framework does not know them."),
    ] = None,
    masks_from: MasksFromOption = None,
) -> None:
    """Run a DeepSpeed script, unchanged, and prune what it trains; further arguments go to the script."""
    from dsprune.recipe import load_recipe

    loaded = load_recipe(recipe)
    from dsprune.commands.run import run_script as run

    run(loaded, script, context.args, steps_per_epoch, masks_from)


@app.command()
def stop(run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]) -> None:
    """Stop a run with a checkpoint; `dsprune train` resumes it."""
    from dsprune.commands.status import stop as stop_run

    stop_run(run, Console())


@app.command()
def teacher(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples per forward pass and rank.")] = 32,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="Number format of the teacher's weights.")
    ] = "fp32",
    stage: Annotated[
        Literal["0", "3"], typer.Option(help="ZeRO stage; 3 = for a teacher larger than a device.")
    ] = "0",
) -> None:
    """Store the teacher's logits for the training data; in one process or in many."""
    from dsprune.ranks.ranks import find_ranks
    from dsprune.recipe import load_recipe

    loaded, ranks = load_recipe(recipe, overrides or []), find_ranks()
    with starting(is_first=ranks.is_first):
        from dsprune.commands.teacher import teacher as store_logits

    console = Console(stderr=True, quiet=not ranks.is_first)
    store_logits(loaded, batch_size, precision, int(stage), ranks, console)


@app.command()
def calibrate(
    context: typer.Context,
    store: Annotated[Path | None, typer.Argument(metavar="STORE", help="A teacher logits store.")] = None,
    overrides: Overrides = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="The recipe whose training data hold the labels, or whose learning rate is chosen."
        ),
    ] = None,
    rate: Annotated[
        bool, typer.Option("--rate", help="Choose the learning rate by short runs of the recipe.")
    ] = False,
    steps: Annotated[int, typer.Option(min=8, help="--rate: length of each run.")] = 100,
    num_ranks: Annotated[int, typer.Option(min=1, help="--rate: processes of each run.")] = 1,
    output: Annotated[
        Path | None, typer.Option(help="--rate: folder of the runs. Default: runs/NAME-rates.")
    ] = None,
    max_records: Annotated[
        int | None,
        typer.Option(min=1, help="Number of records to read. Default: as many as hold 67 million logits."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves into this file.")] = None,
    write: Annotated[Path | None, typer.Option(help="The recipe file to write the result to.")] = None,
) -> None:
    """Choose the temperature of distillation from a teacher logits store, or the learning rate by short runs."""
    from dsprune.recipe import load_recipe
    from dsprune.utils.console import quiet_libraries

    if rate and store is not None and "=" in str(store):  # an override, in the place of the store
        store, overrides = None, [str(store), *(overrides or [])]
    if rate and (store is not None or recipe is None):
        raise UserError("calibrate: --rate: needs --recipe, and no store")
    if not rate and store is None:
        raise UserError("calibrate: give a store to choose the temperature from, or --rate and --recipe")
    if rate:
        refuse_unused(context, "for a store, not for --rate: leave it out", "max_records")
    else:
        refuse_unused(context, "for --rate only: add --rate, or leave it out", "steps", "num_ranks", "output")
    if overrides and recipe is None:
        raise UserError(f"override {overrides[0]!r}: there is no recipe to override: add --recipe")
    if rate:
        refuse_ranks("calibrate --rate")
    loaded = load_recipe(recipe, overrides or []) if recipe else None
    quiet_libraries(is_first=True)
    if loaded is not None and rate:
        from dsprune.commands.calibrate.rate import calibrate_rate

        calibrate_rate(loaded, steps, num_ranks, output, plot, write, Console())
    elif store is not None:
        from dsprune.commands.calibrate.calibrate import calibrate as choose

        choose(store, loaded, plot, write, max_records, Console())


@app.command()
def suite(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A shipped suite, such as guidelines, or a YAML file.")
    ],
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE", help="The recipe that the suite varies. Default: the suite's own recipes."
        ),
    ] = None,
    overrides: Overrides = None,
    methods: Annotated[list[str] | None, typer.Option(help="A method to run. Default: all.")] = None,
    sparsity: Annotated[
        list[float] | None, typer.Option(callback=between_0_and_1, help="A target. Default: the suite's.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Number of seeds.")] = 1,
    output: Annotated[Path | None, typer.Option(help="Folder of all runs. Default: runs/NAME.")] = None,
    num_ranks: Annotated[int, typer.Option(min=1, help="Processes of each run, on this host.")] = 1,
    part: Annotated[int | None, typer.Option(min=0, help="Run this part only, as the Slurm jobs do.")] = None,
    slurm: Annotated[bool, typer.Option(help="Submit it as Slurm arrays, one job a run.")] = False,
    gpus_per_node: Annotated[
        int | None,
        typer.Option(min=0, help="With --slurm: GPUs of each job; 0 = CPU. Default: the script's."),
    ] = None,
    time: Annotated[str | None, typer.Option(help="With --slurm: longest time of each job.")] = None,
    partition: Annotated[str | None, typer.Option(help="With --slurm: partition.")] = None,
    sbatch: Annotated[list[str] | None, typer.Option(help="With --slurm: another option of sbatch.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Only print the commands.")] = False,
) -> None:
    """Run a grid of methods, sparsities and seeds, keep finished runs, and write a report."""
    from dsprune.commands.suite.suite import Choice, suite_part
    from dsprune.commands.suite.suite import suite as run_suite

    refuse_ranks("suite")
    chosen, targets, values = tuple(methods or ()), tuple(sparsity or ()), tuple(overrides or ())
    choice = Choice(name, recipe, values, chosen, targets, seeds, output)
    if slurm:
        refuse_unused(
            context, "the Slurm jobs set it: leave it out, or leave out --slurm", "num_ranks", "part"
        )
    else:
        for_slurm = ("gpus_per_node", "time", "partition", "sbatch")
        refuse_unused(context, "for Slurm jobs only: add --slurm, or leave it out", *for_slurm)
    if part is not None:
        refuse_unused(context, "prints all parts: leave out --part", "dry_run")
    if slurm:
        from dsprune.commands.submit import Request
        from dsprune.commands.suite.suite import submit_suite

        request = Request(1, gpus_per_node, time, partition, tuple(sbatch or ()))
        submit_suite(choice, request, dry_run, Console())
    elif part is not None:
        suite_part(choice, part, num_ranks, Console())
    else:
        run_suite(choice, num_ranks, dry_run, Console())

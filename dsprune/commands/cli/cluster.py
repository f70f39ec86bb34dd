"""Commands about data, the machine and the cluster."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dsprune.commands.cli.main import Overrides, RecipeArgument, app, refuse_unused
from dsprune.errors import UserError

__all__ = ["data", "doctor", "schema", "slurm_scripts", "submit"]


@app.command()
def data(
    context: typer.Context,
    task: Annotated[
        str | None,
        typer.Argument(metavar="TASK", help="Name of the task or kind; without it, all are listed."),
    ] = None,
    overrides: Overrides = None,
    path: Annotated[Path | None, typer.Option(help="The folder of a local copy to check.")] = None,
) -> None:
    """Show the source, licence and size of a task's data, or the fields of a kind of task; check a local copy."""
    from dsprune.commands.data import check_copy, describe, list_tasks
    from dsprune.recipe import load_task
    from dsprune.utils.console import quiet_libraries

    quiet_libraries(is_first=True)
    if task is None:
        refuse_unused(context, "checks the data of one task: name the task", "path")
        return list_tasks(Console())
    settings = load_task(task, overrides or [])
    describe(settings, Console())
    if path is not None and not path.is_dir():
        raise UserError(f"--path: value {path}: no such folder: give that of a local copy")
    folder = settings.folder if path is None else path
    if folder is not None:
        check_copy(settings, Path(folder), Console())


@app.command()
def submit(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    nodes: Annotated[int, typer.Option(min=1, help="Number of nodes of each job.")] = 1,
    gpus_per_node: Annotated[
        int | None,
        typer.Option(min=0, help="GPUs of each node; 0 = one rank a node, on CPU. Default: the script's."),
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Longest time of each job, as sbatch reads it. Default: the script's.")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Partition. Default: the cluster's.")] = None,
    array: Annotated[str | None, typer.Option(help="Sparsities, one run each, such as 0.5,0.9.")] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(help="Another option of sbatch, such as --sbatch=--qos=long.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Check and print the commands; submit nothing.")] = False,
) -> None:
    """Submit a recipe to Slurm: first its teacher logits store where that is missing, then its training."""
    from dsprune.commands.submit import Request
    from dsprune.commands.submit import submit as submit_recipe

    request = Request(nodes, gpus_per_node, time, partition, tuple(sbatch or ()))
    submit_recipe(recipe, overrides or [], request, array, Console(), dry_run=dry_run)


@app.command()
def slurm_scripts(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to create.")],
) -> None:
    """Copy the batch scripts of `dsprune submit` to a folder, to edit them for a cluster."""
    from dsprune.commands.submit import copy_scripts

    copy_scripts(folder, Console())


@app.command()
def doctor(
    build_ops: Annotated[bool, typer.Option(help="Compile DeepSpeed's extensions for this machine.")] = False,
) -> None:
    """Check what this machine can run: torch, DeepSpeed, ranks, Slurm, wandb."""
    from dsprune.commands.doctor import doctor as examine
    from dsprune.ranks.ranks import is_first_on_host

    if is_first_on_host():
        raise typer.Exit(examine(Console(), build_ops=build_ops))


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, with which editors complete and check YAML."""
    from dsprune.recipe import recipe_schema

    print(json.dumps(recipe_schema(), indent=2))

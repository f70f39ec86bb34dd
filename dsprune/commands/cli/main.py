"""The command-line application: arguments that commands share, and exit codes."""

import codecs
import gc
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import dsprune
from dsprune.errors import (
    EXIT_STOPPED,
    EXIT_UNFORESEEN,
    CheckFailedError,
    RunFailedError,
    StoppedError,
    UserError,
)
from dsprune.ranks.ranks import expected_ranks, is_first_of_all, is_first_on_host
from dsprune.utils.console import quiet_deepspeed
from dsprune.utils.files import describe_system_error, is_full_disk, system_error
from dsprune.utils.installation import shipped_names
from dsprune.utils.signals import END_SIGNALS
from dsprune.utils.text import first_line, one_line, printable

__all__ = [
    "Overrides",
    "RecipeArgument",
    "app",
    "between_0_and_1",
    "check_python",
    "main",
    "place_local_rank",
    "refuse_ranks",
    "refuse_unused",
    "run_command",
    "run_explained",
]


class _RecipesFirst(TyperGroup):
    """The commands in the order of their files; typer would put `recipes`, which has a subcommand, last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: name != "recipes")


EXIT_INTERRUPTED = 128 + signal.SIGINT

ON_ALL_RANKS = ("train", "run", "teacher", "eval", "analyze", "doctor")
"""The commands that a launcher may start on many ranks. All others run on the first rank, and end on the others."""

app = typer.Typer(cls=_RecipesFirst, pretty_exceptions_enable=False)


def _complete_recipe(incomplete: str) -> list[str]:
    """Return the shipped recipes with a prefix; if there are none, the shell completes file names."""
    return [name for name in shipped_names("recipes") if name.startswith(incomplete)]


RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe file, or the name of a shipped recipe.",
        autocompletion=_complete_recipe,
    ),
]


Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY.SUB=VALUE", help="Recipe values.")]


def between_0_and_1(values: list[float] | None) -> list[float] | None:
    """Check the sparsities in options, because the limits of typer accept NaN."""
    for value in values or ():
        if not 0 < value < 1:
            raise typer.BadParameter(f"{value} is not between 0 and 1")
    return values


def refuse_unused(context: typer.Context, reason: str, *names: str) -> None:
    """Refuse options that were typed, but would have no effect beside the others.

    Args:
        context: the context of the command.
        reason: why they have none, and the way out.
        names: the parameters of the options.

    Raises:
        UserError: one of them was typed.
    """
    typed = []
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            typed.append("--" + name.replace("_", "-"))
    if typed:
        raise UserError(f"{', '.join(typed)}: {reason}")


def refuse_ranks(command: str) -> None:
    """Refuse to run a command, which starts ranks of its own, on several ranks.

    Raises:
        UserError: a launcher has started more than one.
    """
    if (world_size := expected_ranks().world_size) > 1:
        raise UserError(
            f"{command}: started on {world_size} ranks, but it starts the ranks of its runs itself: start it without a "
            f"launcher, with --num-ranks {world_size}"
        )


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"dsprune {dsprune.__version__}")
        raise typer.Exit


@app.callback()
def _application(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit."),
    ] = False,
) -> None:
    """Gradual pruning of language models inside DeepSpeed ZeRO."""
    command = context.invoked_subcommand
    if command not in ON_ALL_RANKS and not is_first_of_all():
        ranks = expected_ranks()
        print(
            f"dsprune: {command} runs on rank 0 alone, and this is rank {ranks.rank} of {ranks.world_size}: without a "
            f"launcher, unset what one has left in the environment, such as RANK and WORLD_SIZE",
            file=sys.stderr,
        )
        raise typer.Exit


def main() -> None:
    """Run the command in `sys.argv`.

    Exit codes: 0 done, 1 a check failed, 2 bad input, 70 an error of dsprune, 75 stopped, to be resumed.
    """
    _use_utf8()
    quiet_deepspeed(is_first=True)
    # Garbage collection would take a fifth of the time of the imports, and find nothing.
    gc.set_threshold(100_000, 50, 50)
    # A terminated process unwinds and removes its temporary files, unless a batch script has it ignore the signal.
    for number in END_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: sys.exit(128 + number))
    code = run_explained(lambda: check_python(sys.flags.optimize)) or run_command(
        place_local_rank(sys.argv[1:])
    )
    # At the end of a run all ranks have synchronized. After an error, others may still wait for this one.
    if code in (0, EXIT_STOPPED) and "torch.distributed" in sys.modules:
        from dsprune.ranks.group import leave_ranks

        leave_ranks()
    sys.exit(code)


def check_python(optimize: int) -> None:
    """Check Python's optimization level: level 2 removes docstrings, which the libraries need to make classes."""
    if optimize > 1:
        raise UserError(
            f"PYTHONOPTIMIZE={optimize} (or python -OO): transformers does not work without docstrings: unset it"
        )


def run_command(arguments: list[str]) -> int:
    """Run a command in this process, and return its exit code."""
    return run_explained(lambda: app(arguments or ["--help"], prog_name="dsprune", standalone_mode=False))


def run_explained(call: Callable[[], Any]) -> int:
    """Call a function, explain its error in one line on stderr, and return the exit code."""
    try:
        code = int(call() or 0)
        if code == EXIT_INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            raise KeyboardInterrupt
        return code
    except UserError as error:
        _print_error(str(error))
        return 2
    except CheckFailedError as error:
        _print_error(str(error))
        return 1
    except RunFailedError as error:
        _print_error_of_rank(str(error))
        return 1
    except StoppedError as error:
        _print_error(str(error))
        return EXIT_STOPPED
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        reason = error.format_message().replace("Value error, ", "").removesuffix(".")
        _print_error(reason + (f". See {context.command_path} --help" if context else ""))
        return 2
    except (typer.Abort, KeyboardInterrupt):
        _print_error("interrupted")
        return EXIT_INTERRUPTED
    except Exception as error:
        return _end(error)


def _end(error: Exception) -> int:
    """Report an unexpected error, and return the exit code."""
    print_error = _print_error_of_rank if os.environ.get("WORLD_SIZE", "1") != "1" else _print_error
    if (cause := system_error(error)) is not None:
        print_error(describe_system_error(cause))
        return 1 if is_full_disk(cause) else 2
    if _is_of_accelerator(error):
        wanted = os.environ.get("DS_ACCELERATOR")
        print_error(
            f"DS_ACCELERATOR={wanted!r}: {first_line(error)}: unset it, and DeepSpeed chooses the device"
        )
        return 2
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    print_error(
        f"unforeseen error: {printable(reason)[:300]}: this is a bug of dsprune or of a library; please report it "
        f"with the traceback{_write_traceback(error)}"
    )
    return EXIT_UNFORESEEN


def _is_of_accelerator(error: Exception) -> bool:
    """Return whether DeepSpeed refused the accelerator in the environment, as it does when it is imported."""
    places = traceback.extract_tb(error.__traceback__)
    return "DS_ACCELERATOR" in os.environ and places[-1].name == "get_accelerator"


def _write_traceback(error: Exception) -> str:
    """Write the traceback to a file and print its name; print the traceback if no file can be written."""
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="dsprune-traceback-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
        ) as file:
            file.write(text)
    except OSError:
        print(text, file=sys.stderr)
        return " above"
    return f" in {file.name}"


def _print_error(message: str) -> None:
    """Print one line per host, not per rank."""
    if is_first_on_host():
        # In one call, so that lines of two processes do not mix.
        sys.stderr.write(f"dsprune: {one_line(message)}\n")


def _print_error_of_rank(message: str) -> None:
    """Print a line that may differ between ranks."""
    sys.stderr.write(f"dsprune: rank {os.environ.get('RANK', '0')}: {one_line(message)}\n")


def _use_utf8() -> None:
    """Restart in Python's UTF-8 mode if the locale is ASCII, which does not allow other file names."""
    if codecs.lookup(sys.getfilesystemencoding()).name == "ascii" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def place_local_rank(arguments: list[str]) -> list[str]:
    """Move the launcher's `--local_rank=N` behind the script of `run`, and remove it for all other commands.

    The environment has it, too. Arguments after a script belong to the script.
    """
    ours = [argument for argument in arguments if not _is_local_rank(argument)]
    if ours[:1] != ["run"]:
        return ours
    command = arguments.index("run")
    return arguments[command:] + arguments[:command]


def _is_local_rank(argument: str) -> bool:
    return argument.startswith(("--local_rank", "--local-rank"))

"""Errors of the system and unexpected errors end a command with one line."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from deepspeed.accelerator import real_accelerator
from safetensors.torch import save_file

from dsprune.commands.cli import run_command
from dsprune.commands.cli.main import check_python, run_explained
from dsprune.distillation.store import open_store
from dsprune.errors import UserError
from dsprune.ranks.agreement import on_first_rank
from dsprune.testing.commands import environment
from dsprune.testing.stores import capture, plan, spec
from dsprune.utils.files import (
    describe_system_error,
    is_full_disk,
    replace_file,
    replace_folder,
    system_error,
)


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EMFILE, "raise the limit of open files"),
        (errno.EACCES, "change its permissions"),
        (errno.ENOTDIR, "something else is there"),
        (errno.EROFS, "its file system is read-only"),
        (errno.ENAMETOOLONG, "give a shorter name"),
        (errno.ENOENT, "there is no such file"),
        (errno.EIO, "check the path and its disk"),
    ],
)
def test_an_error_of_the_system_names_the_path_and_the_way_out(number: int, way_out: str) -> None:
    error = OSError(number, os.strerror(number), "some/path")
    assert describe_system_error(error).startswith(f"some/path: {os.strerror(number)}: {way_out}")
    assert system_error(error) is error
    assert is_full_disk(error) == (number == errno.ENOSPC)


def test_an_import_without_open_files_is_an_error_of_the_system() -> None:
    found = system_error(ImportError("libx.so: cannot open shared object file: Too many open files"))
    assert found.errno == errno.EMFILE
    assert system_error(ImportError("no module")) is None
    assert system_error(ValueError()) is None


def error_line(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert run_command([*command]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("dsprune: ")
    return line


def test_commands_tell_errors_of_the_system_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long, file = str(tmp_path / ("x" * 300)), tmp_path / "file"
    assert "File name too long: give a shorter name" in error_line(capsys, "slurm-scripts", long)
    file.touch()
    below = str(file / "scripts")
    assert f"{file}: File exists: something else is there" in error_line(capsys, "slurm-scripts", below)


def test_an_interrupt_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.command()
    def command() -> None:
        raise KeyboardInterrupt

    assert run_explained(lambda: app([], standalone_mode=False)) == 130
    assert capsys.readouterr().err == "dsprune: interrupted\n"


def test_an_error_of_the_system_on_one_rank_ends_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere/x: No such file or directory: there is no such file"):
        on_first_rank((tmp_path / "nowhere" / "x").touch)


def test_the_start_and_the_end_of_a_long_error_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["plan", "sentiment-90", f"pruning.method={'x' * 9000}"]) == 2
    *waits, line = capsys.readouterr().err.splitlines()
    assert waits in ([], ["loading torch, transformers and DeepSpeed ..."]), "said on a slow machine"
    assert line.startswith("dsprune: ")
    assert "xxx ... " in line
    assert len(line) < 2100


def test_what_nobody_foresaw_names_a_file_with_the_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("a\nb\x1b[31m")

    monkeypatch.setattr("dsprune.commands.status.status", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_command(["status", "x"]) == 70
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("dsprune: unforeseen error: KeyError: ")
    assert line.isprintable()
    [path] = re.findall(r"with the traceback in (\S+)", line)
    assert "in fail" in Path(path).read_text()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert run_command(["status", "x"]) == 70
    assert "in fail" in capsys.readouterr().err, "it is shown where it cannot be written"


@pytest.mark.parametrize(
    ("wanted", "says"), [("gpu", 'Value "gpu" is not supported'), ("", "must be one of")]
)
def test_an_accelerator_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wanted: str, says: str
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", wanted)
    monkeypatch.setattr(real_accelerator, "ds_accelerator", None)  # as in a new process
    assert run_explained(real_accelerator.get_accelerator) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dsprune: DS_ACCELERATOR={wanted!r}: ")
    assert says in line
    assert line.endswith("unset it, and DeepSpeed chooses the device")


def test_python_without_docstrings_is_refused() -> None:
    check_python(1)
    with pytest.raises(UserError, match=r"^PYTHONOPTIMIZE=2 .*: unset it$"):
        check_python(2)


def test_names_in_any_letters_work_in_an_ascii_locale(tmp_path: Path) -> None:
    plain = {name: value for name, value in environment().items() if not name.startswith("LC_")}
    program = "import sys; from dsprune.commands.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "recipes", "show", f"{tmp_path}/größe.yaml"],
        env=plain | {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.decode().startswith(f"dsprune: recipe '{tmp_path}/größe.yaml': no such file")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_have_the_mode_of_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    def write(path: Path) -> None:
        save_file({"weight": torch.ones(2)}, path)

    def write_folder(folder: Path) -> None:
        folder.mkdir()
        write(folder / "model.safetensors")

    before = os.umask(mask)
    try:
        replace_file(tmp_path / "file", write)
        replace_folder(tmp_path / "folder", write_folder)
    finally:
        os.umask(before)
    for path in (tmp_path / "file", tmp_path / "folder" / "model.safetensors"):
        assert path.stat().st_mode & 0o777 == mode


def test_a_folder_takes_the_place_of_a_link_and_leaves_its_target(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "kept").touch()
    (tmp_path / "ours").symlink_to("theirs")
    replace_folder(tmp_path / "ours", Path.mkdir)
    assert not (tmp_path / "ours").is_symlink()
    assert (tmp_path / "theirs" / "kept").exists()


def num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_store_keeps_no_file_open(tmp_path: Path) -> None:
    folder = capture(tmp_path, plan(spec("hidden"), shard_bytes=200))
    before = num_open_files()
    store = open_store(folder)
    assert store.num_files > 10
    assert num_open_files() == before
    assert store.missing(store.fingerprints) == []

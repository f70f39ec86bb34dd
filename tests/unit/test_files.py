"""Files are complete or absent."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from dsprune.errors import UserError
from dsprune.utils.files import find_files, lock_folder, replace_file, replace_folder, replace_text, sha256_of


def test_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_text(path, "old")
    replace_text(path, "größer")
    assert path.read_text(encoding="utf-8") == "größer"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), KeyboardInterrupt(), SystemExit(143)]
)
@pytest.mark.parametrize("existing", [True, False])
def test_a_failed_write_leaves_the_folder_as_it_was(
    tmp_path: Path, failure: BaseException, existing: bool
) -> None:
    path = tmp_path / "file"
    if existing:
        path.write_text("old")

    def write_half(temporary: Path) -> None:
        temporary.write_text("hal")
        raise failure

    with pytest.raises(type(failure)):
        replace_file(path, write_half)
    assert [file.name for file in tmp_path.iterdir()] == ["file"] * existing
    assert not existing or path.read_text() == "old"


@pytest.mark.parametrize("replace", [replace_file, replace_folder])
def test_an_error_of_the_data_is_not_reported_as_one_of_the_system(
    tmp_path: Path, replace: Callable[[Path, Callable[[Path], object]], None]
) -> None:
    def write(_: Path) -> None:
        raise SafetensorError("Error while serializing: invalid shape")

    with pytest.raises(SafetensorError, match="invalid shape"):
        replace(tmp_path / "new", write)
    assert not list(tmp_path.iterdir())


def test_a_reader_never_sees_a_partial_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("ne")
        assert path.read_text() == "old"
        temporary.write_text("new")

    replace_file(path, write)
    assert path.read_text() == "new"


def test_a_missing_folder_is_a_system_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_text(tmp_path / "none" / "file", "text")


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 5000])
def test_sha256_is_that_of_the_whole_content(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert sha256_of(path) == hashlib.sha256(content).hexdigest()


def test_a_pipe_has_no_sha256_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: not a file"):
        sha256_of(tmp_path / "pipe")


HOLD = """
import sys, time
from pathlib import Path
from dsprune.utils.files import lock_folder
with lock_folder(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_writes_to_a_folder_until_it_ends_in_any_way(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(UserError, match=r"b: another process writes to it: wait$"),
            lock_folder(folder, "another process writes to it: wait"),
        ):
            pass
        assert folder.is_dir(), "the other's"
        other.kill()
    with lock_folder(folder, "busy"):
        (folder / "file").touch()
    assert (folder / "file").exists()


REPLACE = """
import sys, time
from pathlib import Path
from dsprune.utils.files import replace_folder
def write(new):
    new.mkdir()
    (new / "half").touch()
    print("writing", flush=True)
    time.sleep(60)
replace_folder(Path(sys.argv[1]), write)
"""


def test_two_processes_do_not_write_the_same_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with subprocess.Popen([sys.executable, "-c", REPLACE, str(folder)], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"writing\n"
        says = r"\.model\.tmp: another process is writing model: wait, or give another folder$"
        with pytest.raises(UserError, match=says):
            replace_folder(folder, Path.mkdir)
        assert [path.name for path in (tmp_path / ".model.tmp" / "new").iterdir()] == ["half"], "the other's"
        other.kill()
    replace_folder(folder, Path.mkdir)
    assert list(tmp_path.rglob("*")) == [folder], "nothing is left of the killed one"


def test_a_folder_may_keep_what_is_not_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for name in ("mine/file", "weights/old", "masks-1", "masks"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old")

    def write(new: Path) -> None:
        (new / "weights").mkdir(parents=True)
        (new / "weights" / "new").write_text("new")

    replace_folder(folder, write, stale=["masks-*"])
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"model/mine/file", "model/weights/new", "model/masks"}


def test_a_folder_survives_a_kill_between_the_renames(tmp_path: Path) -> None:
    (tmp_path / ".model.tmp" / "old").mkdir(parents=True)
    (tmp_path / ".model.tmp" / "old" / "weights").touch()

    def fail(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        replace_folder(tmp_path / "model", fail)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model", "weights"]


def test_a_folder_that_stays_empty_is_removed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no room"), lock_folder(tmp_path / "new", "busy"):
        raise UserError("no room")
    assert not (tmp_path / "new").exists()


def test_files_are_found_at_any_depth(tmp_path: Path) -> None:
    for name in ("b/status.json", "a/deep/status.json", "status.json", "a/other.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_files(tmp_path, "status.json")]
    assert found == ["a/deep/status.json", "b/status.json", "status.json"]
    assert len(find_files(tmp_path, "*.json")) == 4
    assert find_files(tmp_path / "none", "status.json") == []


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0)
    command = [sys.executable, "-c", FIND, str(tmp_path)]
    if os.geteuid() == 0:  # root may read a folder of another user unless it gives that up
        os.chown(tmp_path / "closed", 65534, 65534)
        capabilities = "-dac_override,-dac_read_search"
        command = ["setpriv", "--bounding-set", capabilities, "--inh-caps", capabilities, *command]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = f"{tmp_path / 'closed'}: Permission denied: change its permissions, or give another path"
    assert done.stdout.splitlines() == [told, f"{tmp_path / 'closed'} was passed on"]


FIND = """
import sys
from pathlib import Path
from dsprune.errors import UserError
from dsprune.utils.files import find_files

try:
    find_files(Path(sys.argv[1]), "status.json")
except UserError as error:
    print(error)
find_files(Path(sys.argv[1]), "status.json", lambda error: print(error.filename, "was passed on"))
"""

"""The audit compares every checksum, and names the files without one."""

import os
import shutil
from pathlib import Path

import pytest

from dsprune.checkpoint.audit import audit_all, audit_folder
from dsprune.checkpoint.file_list import MODEL_LIST, list_model_folder
from dsprune.commands.cli import run_command
from dsprune.errors import UserError
from dsprune.masks.manifest import MANIFEST
from dsprune.testing.damage import flip_a_bit
from dsprune.testing.stores import capture, plan, spec
from tests.unit.sparse import sparse_bert


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sparse BERT with a list of its files."""
    folder = sparse_bert(tmp_path_factory.mktemp("model"))
    list_model_folder(folder)
    return folder


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "copy"))


def test_every_file_is_listed_and_checked(copy: Path) -> None:
    assert audit_folder(copy).success() == (
        f"{copy}: every invariant holds; 5 files match their listed SHA-256"
    )


@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_a_flipped_bit_in_any_file_is_found(copy: Path, place: float) -> None:
    for path in sorted(copy.iterdir()):
        content = path.read_bytes()
        flip_a_bit(path, int(place * (path.stat().st_size - 1)))
        assert run_command(["audit", str(copy)]) in (1, 2), path.name
        path.write_bytes(content)
    assert run_command(["audit", str(copy)]) == 0


def test_a_changed_file_is_named_with_the_way_out(copy: Path) -> None:
    flip_a_bit(copy / "config.json")
    with pytest.raises(
        UserError, match=r"config.json: damaged, its SHA-256 .* or remove dsprune-files.json if"
    ):
        audit_folder(copy)
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"config.json: missing, though dsprune-files.json lists it"):
        audit_folder(copy)


def test_what_is_not_listed_is_said_to_be_unchecked(copy: Path) -> None:
    (copy / "notes.md").touch()
    assert audit_folder(copy).success().endswith("; not listed, so not checked: notes.md")
    (copy / MODEL_LIST).unlink()
    assert audit_folder(copy).success().endswith("; no dsprune-files.json, so only its masks have checksums")


def test_a_dense_model_has_checksums_alone(copy: Path) -> None:
    for path in [copy / MANIFEST, *copy.glob("masks-*")]:
        path.unlink()
    with pytest.raises(UserError, match=r"no dsprune.json, so no masks"):
        audit_folder(copy)
    list_model_folder(copy)
    [audit] = audit_all(copy)
    assert audit.success() == f"{copy}: 4 files match their listed SHA-256"


@pytest.mark.parametrize("kind", ["full", "hidden"])
def test_a_store_is_audited(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = capture(tmp_path / "store", plan(spec(kind), shard_bytes=4000))
    num_files = len(list(store.glob("*.safetensors")))
    assert run_command(["audit", str(store)]) == 0
    assert f"{num_files} files match their listed SHA-256" in capsys.readouterr().out.replace("\n", "")
    flip_a_bit(store / "shard-00000.safetensors")
    assert run_command(["audit", str(store)]) == 2
    assert "shard-00000.safetensors: damaged, its content does not match" in capsys.readouterr().err


def test_files_are_on_the_disk_before_their_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[tuple[int, bool]] = []
    fsync = os.fsync

    def spy(file: int) -> None:
        flushed.append((os.fstat(file).st_ino, (tmp_path / MODEL_LIST).exists()))
        fsync(file)

    monkeypatch.setattr(os, "fsync", spy)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    list_model_folder(tmp_path)
    assert flushed == [(weights.stat().st_ino, False), ((tmp_path / MODEL_LIST).stat().st_ino, False)]

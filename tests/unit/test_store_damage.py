"""A damaged store is refused with the name of the file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dsprune.distillation.store import (
    ShardWriter,
    begin_store,
    find_store,
    finish_store,
    missing_shards,
    open_store,
)
from dsprune.distillation.store.tensor_file import TensorFile, write_tensors
from dsprune.errors import UserError
from dsprune.testing.damage import flip_a_bit
from dsprune.testing.stores import ORIGIN, capture, content, head, plan, spec, write_shard

FILES = ["shard-00000.safetensors", "shard-00001.safetensors", "head.safetensors", "index.safetensors"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return capture(tmp_path, plan(spec("hidden"), shard_bytes=500))


def header_length(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


# ---- files


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, 0.01, 0.5, 1.0])
def test_a_flipped_bit_in_the_content(folder: Path, name: str, place: float) -> None:
    begin, end = header_length(folder / name), (folder / name).stat().st_size - 1
    flip_a_bit(folder / name, round(begin + place * (end - begin)))
    with pytest.raises(
        UserError, match=f"{name}: damaged, its content does not match the checksum in its header"
    ):
        open_store(folder)
    if name != "index.safetensors":
        open_store(folder, verify=False)  # sizes and headers are trusted


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("verify", [True, False])
def test_a_flipped_bit_anywhere_in_the_header(folder: Path, name: str, verify: bool) -> None:
    path = folder / name
    for place in range(0, header_length(path), 7):
        flip_a_bit(path, place)
        with pytest.raises(
            UserError, match=f"{name}: (damaged, its header|damaged, it has|its header|format)"
        ):
            open_store(folder, verify=verify)
        flip_a_bit(path, place)
    open_store(folder, verify=verify)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("left", [0, 7, 8, 100, -1000, -1])
def test_a_truncated_file_is_refused(folder: Path, name: str, verify: bool, left: int) -> None:
    raw = (folder / name).read_bytes()
    (folder / name).write_bytes(raw[:left])
    with pytest.raises(
        UserError, match=f"{name}: damaged, (its header is truncated|it has [0-9,]+ bytes instead of [0-9,]+)"
    ):
        open_store(folder, verify=verify)


def test_a_file_that_is_too_long(folder: Path) -> None:
    with (folder / FILES[0]).open("ab") as file:
        file.write(b"x")
    with pytest.raises(
        UserError, match=f"{FILES[0]}: damaged, it has [0-9,]+ bytes instead of [0-9,]+: copy it again"
    ):
        open_store(folder, verify=False)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: missing: copy it from where the store was made"):
        open_store(folder)


def test_two_swapped_files_are_refused(folder: Path) -> None:
    first, second = folder / FILES[0], folder / FILES[1]
    raw = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(raw)
    with pytest.raises(
        UserError, match=f"{FILES[0]}: (its header does not match store.json|damaged, it has)"
    ):
        open_store(folder, verify=False)


def test_a_safetensors_file_of_another_program(folder: Path) -> None:
    save_file({"weight": torch.ones(3)}, folder / FILES[0], {"format": "pt"})
    with pytest.raises(
        UserError, match=f"{FILES[0]}: damaged, its header was not written by dsprune: KeyError"
    ):
        TensorFile(folder / FILES[0])


def test_a_file_of_another_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsprune.distillation.store.tensor_file.FORMAT", 2)
    write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)}, {})
    monkeypatch.undo()
    with pytest.raises(UserError, match="format 2, this dsprune reads 1: use a matching"):
        TensorFile(tmp_path / "x.safetensors")


def test_a_header_that_points_behind_the_file(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}
    header = {"__metadata__": {"dsprune": '{"format": 1, "sha256": ""}'}, "a": entry}
    raw = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + b"1234")
    with pytest.raises(
        UserError, match=r"x.safetensors: damaged, its header was not written by dsprune: TypeError"
    ):
        TensorFile(tmp_path / "x.safetensors")


# ---- manifest


def change(folder: Path, edit: Callable[[dict], object]) -> None:
    values = json.loads((folder / "store.json").read_text())
    edit(values)
    (folder / "store.json").write_text(json.dumps(values))


def test_without_a_manifest_a_store_is_incomplete(folder: Path) -> None:
    (folder / "store.json").unlink()
    with pytest.raises(
        UserError, match=r"not a complete store, store\.json is missing: run `dsprune teacher`"
    ):
        open_store(folder)
    with pytest.raises(UserError, match=r"nowhere: no such folder: run `dsprune teacher`"):
        open_store(folder / "nowhere")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[]", "object"),
        (b'{"format": 3}', "should be 1 or 2"),
    ],
)
def test_a_damaged_manifest_is_refused(folder: Path, text: bytes, reason: str) -> None:
    (folder / "store.json").write_bytes(text)
    with pytest.raises(
        UserError, match=rf"store.json: not a manifest of format 1 or 2 \(.*{reason}.*\): use another store"
    ):
        open_store(folder)


@pytest.mark.parametrize(
    "edit",
    [
        lambda values: values["spec"].update(dtype="bf16"),
        lambda values: values["spec"]["outputs"]["out0"].update(classes=301),
        lambda values: values["origin"].update(teacher="another"),
        lambda values: values.update(plan="0" * 64),
        lambda values: values.update(num_records=1),
        lambda values: values["num_rows"].update(out0=1),
    ],
)
def test_a_manifest_that_contradicts_the_files(folder: Path, edit: Callable) -> None:
    change(folder, edit)
    with pytest.raises(UserError, match=f"{FILES[3]}: its header does not match store.json, one of them"):
        open_store(folder)


def test_a_manifest_with_an_unknown_field(folder: Path) -> None:
    change(folder, lambda values: values.update(extra=1))
    with pytest.raises(UserError, match="Extra inputs are not permitted"):
        open_store(folder)


@pytest.mark.parametrize("name", ORIGIN)
def test_a_store_of_another_origin_is_refused_with_both_values(folder: Path, name: str) -> None:
    with pytest.raises(
        UserError, match=f"the store does not match: {name} is {ORIGIN[name]} in the store and z here: "
    ):
        open_store(folder, {**ORIGIN, name: "z"})


def test_all_differences_are_named_at_once(folder: Path) -> None:
    with pytest.raises(
        UserError, match=r"teacher is t+ in the store and a here; shape is unknown in the store and b"
    ):
        open_store(folder, {"teacher": "a", "shape": "b"})


# ---- nothing is overwritten


def test_a_folder_of_another_plan_is_refused_and_not_changed(folder: Path) -> None:
    before = content(folder)
    other = plan(spec("hidden", "bf16"), shard_bytes=500)
    for act in (
        lambda: begin_store(folder, other),
        lambda: missing_shards(folder, other),
        lambda: write_shard(folder, other, 0),
        lambda: finish_store(folder, other, {"out0": head("out0")}),
    ):
        with pytest.raises(UserError, match=r"nothing is overwritten: give another folder"):
            act()
        assert content(folder) == before


def test_a_manifest_of_another_plan_is_refused(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(
        UserError, match=r"store.json: of plan \w{12}, and this one is \w{12} \(other data, teacher"
    ):
        begin_store(folder, plan(spec("full")))


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors", ".bashrc", ".mine.tmp"])
def test_a_folder_with_other_files_is_refused_and_not_changed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(
        UserError, match=f"{name}: not a file of a store: give `dsprune teacher` a new or empty folder"
    ):
        begin_store(tmp_path, plan(spec()))
    assert content(tmp_path) == {name: b"mine"}


def test_a_shard_without_a_plan_is_not_resumed(tmp_path: Path) -> None:
    write_tensors(tmp_path / FILES[0], {"a": torch.ones(1)}, {})
    with pytest.raises(UserError, match=f"{FILES[0]}: not a file of a store: give a new or empty folder"):
        find_store(tmp_path)


def test_a_damaged_shard_does_not_count_as_written(folder: Path) -> None:
    flip_a_bit(folder / FILES[1])
    with pytest.raises(UserError, match=f"{FILES[1]}: damaged, its content does not match the checksum"):
        missing_shards(folder, plan(spec("hidden"), shard_bytes=500))


def test_other_outputs_for_an_existing_shard_are_refused(tmp_path: Path) -> None:
    planned = plan(spec())
    write_shard(tmp_path, planned, 0)
    writer = ShardWriter(planned, 0)
    rows = int(planned.rows["out0"][planned.records(0)].sum())
    writer.put(range(len(writer.samples)), {"out0": torch.zeros(rows, 300)})
    with pytest.raises(UserError, match=f"{FILES[0]}: exists with other content, nothing is overwritten"):
        writer.save(tmp_path)


def test_a_store_without_all_its_shards_cannot_be_finished(tmp_path: Path) -> None:
    planned = plan(spec())
    write_shard(tmp_path, planned, 0)
    with pytest.raises(UserError, match=f"{FILES[1]}: missing"):
        finish_store(tmp_path, planned, {})
    assert not (tmp_path / "store.json").exists()


def test_a_shard_without_all_its_records_cannot_be_saved(tmp_path: Path) -> None:
    writer = ShardWriter(plan(spec()), 0)
    with pytest.raises(AssertionError, match=r"records of shard 0 were not put"):
        writer.save(tmp_path)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda values: values["shards"].reverse(), "not the index of the shards in store.json: copy both again"),
        (lambda values: values["shards"].append(values["shards"][-1]), "not the index of the shards in store.json"),
        (lambda values: values["shards"].pop(), "not the index of the shards in store.json: copy both"),
        (lambda values: values["shards"][0].update(file="../x.safetensors"), "should match pattern"),
        (lambda values: values["head"].update(file="/etc/passwd"), "should match pattern"),
        (lambda values: values.update(num_records=-1), "num_records: value -1"),
    ],
)  # fmt: skip
def test_shards_that_are_not_those_of_the_store(
    folder: Path, edit: Callable[[dict], object], says: str
) -> None:
    change(folder, edit)
    with pytest.raises(UserError, match=says):
        open_store(folder)

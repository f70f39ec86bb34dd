"""Tags stay inside their folder, links are removed and not followed, and no pickle runs."""

import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from dsprune.checkpoint import tags
from dsprune.checkpoint.audit import audit_all
from dsprune.checkpoint.deepspeed_files import CheckpointFiles, read_main_file
from dsprune.checkpoint.tag_files import TAG_MANIFEST, check_files, read_tag_list
from dsprune.checkpoint.tags import (
    begin_tag,
    commit_tag,
    complete_tags,
    find_checkpoints,
    invalidate_tag,
    latest_tag,
    remove_tag,
    tag_name,
)
from dsprune.errors import UserError
from dsprune.recipe import load_recipe
from dsprune.testing.fuzz.damage import list_again
from dsprune.train.resume import find_start_point
from dsprune.train.run_folder import RunFolder
from dsprune.zero.pickles import check_pickles

COUNTERS = {"global_steps": 10, "skipped_steps": 0, "global_samples": 320, "lr_scheduler": None}
MAIN = "mp_rank_00_model_states.pt"


@pytest.fixture(autouse=True, scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = (tmp_path_factory.mktemp("group") / "store").as_uri()
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def write_tag(folder: Path, **content: Any) -> Path:
    """A complete tag of one file."""
    folder.mkdir(parents=True)
    torch.save({"module": {}, **COUNTERS, **content}, folder / MAIN)
    commit_tag(folder, 10, latest=True)
    return folder


# ---- names


@pytest.mark.parametrize("name", ["..", "../x", "/etc", "a/b", "", ".", "a\0b"])
def test_a_tag_is_the_name_of_a_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tag: value .*: must be the name of a folder"):
        tag_name(name)
    (tmp_path / "latest").write_text(name)
    with pytest.raises(UserError, match=r"latest: value .*: not the name of a folder beside it"):
        latest_tag(tmp_path)


@pytest.mark.parametrize(("tag", "name"), [(7, "7"), (0.693, "0.693"), (0, "0"), ("epoch 3", "epoch 3")])
def test_other_tags_are_names(tag: Any, name: str) -> None:
    assert tag_name(tag) == name


@pytest.mark.parametrize("content", [b"a\nb", b"x\x1b[31m"])
def test_a_damaged_latest_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "latest").write_bytes(content)
    with pytest.raises(UserError, match=r"latest: value .*: not the name of a folder beside it"):
        latest_tag(tmp_path)


def test_a_latest_that_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    with pytest.raises(
        UserError, match=r"latest: not a file: write the name of a complete checkpoint into it"
    ):
        latest_tag(tmp_path)


def test_a_latest_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "latest").open("wb") as file:
        file.truncate(50 * 2**30)  # of which none is written
    with pytest.raises(
        UserError, match=r"latest: 53,687,091,200 bytes, more than such a file has: write the name"
    ):
        latest_tag(tmp_path)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "..", ".hidden", "a/b"])
def test_a_list_names_files_of_its_folder_alone(tmp_path: Path, name: str) -> None:
    tag = write_tag(tmp_path / "tag")
    values = json.loads((tag / TAG_MANIFEST).read_text())
    values["files"][name] = values["files"][MAIN]
    (tag / TAG_MANIFEST).write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"checkpoint.json: not a manifest of format 1 \(files"):
        check_files(tag)
    assert complete_tags(tmp_path) == []


# ---- lists of many ranks


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tag whose rank lists its own files, as each of many ranks does."""
    monkeypatch.setattr(tags, "LISTED_TOGETHER", 0)
    folder = tmp_path / "global_step10"
    folder.mkdir()
    (folder / "files-00000-of-00009.json").write_text("of an earlier tag")
    (folder / "rank-00000-of-00001.safetensors").write_bytes(b"states")
    torch.save({"module": {}, **COUNTERS}, folder / MAIN)
    commit_tag(folder, 10, latest=True)
    return folder


LIST = "files-00000-of-00001.json"


def test_of_many_ranks_each_lists_its_files(apart: Path) -> None:
    assert json.loads((apart / TAG_MANIFEST).read_text()) == {
        "format": 1,
        "step": 10,
        "files": {},
        "lists": 1,
    }
    assert set(json.loads((apart / LIST).read_text())["files"]) == {MAIN, "rank-00000-of-00001.safetensors"}
    assert check_files(apart) == 2
    assert complete_tags(apart.parent) == [apart]


def test_ranks_check_the_lists_in_turn(apart: Path) -> None:
    values = json.loads((apart / LIST).read_text())
    for rank, name in enumerate(values["files"]):
        record = values | {"files": {name: values["files"][name]}}
        (apart / f"files-{rank:05d}-of-00002.json").write_text(json.dumps(record))
    (apart / TAG_MANIFEST).write_text(json.dumps({"format": 1, "step": 10, "files": {}, "lists": 2}))
    assert [read_tag_list(apart, rank, 2) for rank in (0, 1)] == [
        {name: record} for name, record in (read_tag_list(apart) or {}).items()
    ]
    assert [check_files(apart, rank, 3) for rank in range(3)] == [1, 1, 0]
    assert check_files(apart) == 2


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (LIST, Path.unlink, "no such file: use another checkpoint"),
        (LIST, lambda path: path.write_text("{"), r"not a list of files of format 1 \(Invalid JSON"),
        (LIST, lambda path: path.write_text('{"files": {"x": 3}}'), r"not a list of files of format 1 \(files.x"),
        (MAIN, Path.unlink, "missing, though checkpoint.json lists it: use another checkpoint"),
        (MAIN, lambda path: path.write_bytes(b"other"), "damaged, its SHA-256 is not the one in"),
    ],
)  # fmt: skip
def test_damage_to_a_tag_of_many_ranks_is_refused(
    apart: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    damage(apart / name)
    with pytest.raises(UserError, match=f"{name}: {message}"):
        check_files(apart)
    assert complete_tags(apart.parent) == []


@pytest.mark.parametrize("lists", [-1, 10**7, "two"])
def test_a_number_of_lists_that_cannot_be_is_refused(apart: Path, lists: object) -> None:
    (apart / TAG_MANIFEST).write_text(json.dumps({"format": 1, "step": 10, "files": {}, "lists": lists}))
    with pytest.raises(UserError, match=rf"checkpoint.json: .*\(lists: value {lists!r}"):
        check_files(apart)


# ---- links


@pytest.mark.parametrize("change", [remove_tag, invalidate_tag, begin_tag])
def test_a_link_to_a_tag_is_removed_and_its_target_is_not(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    target = write_tag(tmp_path / "theirs" / "global_step10")
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    link = tmp_path / "global_step10"
    link.symlink_to(target)
    change(link)
    assert not link.is_symlink()
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


def test_nothing_is_written_through_the_links_of_a_tag(tmp_path: Path) -> None:
    target = write_tag(tmp_path / "theirs")
    tag = tmp_path / "ours"
    tag.mkdir()
    (tag / MAIN).symlink_to(target / MAIN)
    begin_tag(tag)
    assert list(tag.iterdir()) == []
    assert check_files(target) == 1


def test_files_of_an_earlier_save_are_removed_and_those_of_the_user_are_not(tmp_path: Path) -> None:
    written = (
        "zero_pp_rank_1_mp_rank_00_model_states.pt bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt "
        "rank-00001-of-00002.safetensors masks-00001-of-00002.safetensors accumulators-00000-of-00002.safetensors "
        "files-00000-of-00065.json"
    )
    tag = write_tag(tmp_path / "best")
    for name in (*written.split(), "tokenizer.json", "notes.pt", "rng_states.pt"):
        (tag / name).touch()
    begin_tag(tag)
    assert {path.name for path in tag.iterdir()} == {"tokenizer.json", "notes.pt", "rng_states.pt"}


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl"])
def test_a_run_whose_files_are_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"{name}: is a symbolic link, .*output="):
        RunFolder(tmp_path / "run").unfinished()


def test_a_run_whose_folder_was_removed_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone: was removed or emptied while the run used it"):
        RunFolder(tmp_path / "gone").check_exists()


def test_of_a_folder_of_runs_no_checkpoint_is_chosen(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    tag = write_tag(run / "checkpoints" / "global_step10")
    (run / "recipe.yaml").touch()
    assert find_checkpoints(run) == find_checkpoints(run / "checkpoints") == [tag]
    for ask in (find_checkpoints, lambda path: list(audit_all(path))):
        with pytest.raises(
            UserError, match=f"^{tmp_path / 'runs'}: .*runs: name one of them, such as {run}$"
        ):
            ask(tmp_path / "runs")


# ---- pickles


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("name", [MAIN, "zero_pp_rank_0_mp_rank_00_optim_states.pt", "zero/weight/fp32.pt"])
@pytest.mark.parametrize("listed", [True, False])
def test_no_pickle_of_a_checkpoint_runs(tmp_path: Path, name: str, listed: bool) -> None:
    tag, marker = write_tag(tmp_path / "tag"), tmp_path / "ran"
    (tag / name).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"optimizer_state_dict": Payload(marker), "module": Payload(marker)}, tag / name)
    if listed:
        list_again(tag / name)
    else:
        (tag / TAG_MANIFEST).unlink()
    with pytest.raises(UserError, match=f"{name}: cannot be read .*: use another checkpoint"):
        check_pickles(tag)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", pickle.dumps(len), b"PK\x03\x04", b"\x80\x02]q\x00.", pickle.dumps([1])],
    ids=["empty", "garbage", "builtin", "zip", "list", "values"],
)
def test_a_damaged_pickle_is_named(tmp_path: Path, content: bytes) -> None:
    tag = write_tag(tmp_path / "tag")
    (tag / MAIN).write_bytes(content)
    with pytest.raises(
        UserError, match=f"{MAIN}: (cannot be read|holds a list, no checkpoint).*: use another"
    ):
        read_main_file(tag)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"global_steps": "x"}, "global_steps is 'x'"),
        ({"skipped_steps": -1}, "skipped_steps is -1"),
        ({"dp_world_size": None}, "dp_world_size is None"),
        ({"module": []}, "module is a list"),
        ({"ds_config": 3}, "ds_config is a int"),
        ({}, r"not as DeepSpeed and dsprune write it \(KeyError: has no 'optimizer'"),
    ],
)
def test_a_checkpoint_of_other_values_is_named(tmp_path: Path, content: dict[str, Any], says: str) -> None:
    tag = write_tag(tmp_path / "tag", **content)
    with pytest.raises(UserError, match=says):
        CheckpointFiles(tag)


# ---- resuming


def test_why_the_latest_checkpoint_is_not_resumed_is_told(tmp_path: Path) -> None:
    checkpoints, recipe = tmp_path / "checkpoints", load_recipe("sentiment-90")
    before, newest = write_tag(checkpoints / "global_step10"), write_tag(checkpoints / "global_step20")

    def lost() -> str | None:
        return find_start_point(recipe, RunFolder(tmp_path / "new"), checkpoints).lost

    assert lost() is None
    (newest / MAIN).write_bytes(b"short")
    assert find_start_point(recipe, RunFolder(tmp_path / "new"), checkpoints).tags == (before,)
    assert lost() == (
        f"{newest / MAIN}: damaged, its SHA-256 is not the one in checkpoint.json: use another checkpoint"
    )
    (newest / TAG_MANIFEST).unlink()
    assert lost() == f"{newest}: has no checkpoint.json, so it is not complete"
    (checkpoints / "latest").write_text("../x")
    assert "latest: value '../x': not the name of a folder" in (lost() or "")

"""A fault ends in recovery or in one clear line, never in a hang or in a model that is dense again."""

import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsprune.checkpoint.tag_files import TAG_MANIFEST
from dsprune.checkpoint.tags import complete_tags
from dsprune.commands.cli import run_command
from dsprune.masks.manifest import MANIFEST, read_manifest
from dsprune.ranks.ranks import Ranks
from dsprune.recipe import load_recipe
from dsprune.schedule import build_timetable
from dsprune.testing.damage import flip_a_bit, truncate
from dsprune.testing.fuzz.damage import list_again
from dsprune.testing.tiny import tiny_sentiment, write_recipe
from dsprune.train.client_state import ClientState
from dsprune.train.run_folder import RunFolder
from dsprune.train.tracking import Tracker
from dsprune.utils.files import errors_named, replace_folder, replace_text
from tests.system.disks import small_disk
from tests.system.resuming import Workshop, make_workshop, status_of, wait_for

ENDLESS = "budget={steps: 100000, batch: 32}"
JUST_BEGIN = "--stop-after=0"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def stopped(workshop: Workshop) -> RunFolder:
    """A run of one rank that has passed two mask updates of three, with two checkpoints."""
    return workshop.start_and_stop("stopped", step=24, world_size=1)


@pytest.fixture
def copy(workshop: Workshop, stopped: RunFolder, request: pytest.FixtureRequest) -> RunFolder:
    target = workshop.folder / "runs" / f"copy{abs(hash(request.node.name))}"
    return RunFolder(Path(shutil.copytree(stopped.path, target)))


def test_two_runs_do_not_share_a_folder_and_stop_is_heard(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks, run = workshop.start("busy", ENDLESS), workshop.run("busy")
    wait_for(ranks, run, 2)
    second = workshop.start("busy", ENDLESS, world_size=1)
    assert second.wait() == [2]
    assert second.error_lines() == [
        f"dsprune: {run.path}: another run uses this folder: wait for it, stop it with dsprune stop, or give "
        f"another name=..."
    ]
    assert run_command(["stop", str(run.path)]) == 0
    assert f"{run.path}: asked to stop after step" in capsys.readouterr().out
    assert ranks.wait(60) == [75, 75]
    # The second run's line stands before it: both write into one log.
    assert ranks.error_lines()[-1].partition(" at step")[0] == "dsprune: dsprune stop: stopped"
    assert run_command(["stop", str(run.path)]) == 2
    assert "the run is not running, it has stopped: nothing to stop" in capsys.readouterr().err


def garbage_listed_again(path: Path) -> None:
    path.write_bytes(b"garbage")
    list_again(path)


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        ("masks-00000-of-00001.safetensors", flip_a_bit, "/{file}: damaged, its SHA-256 is not the one in"),
        ("zero_pp_rank_0_mp_rank_00_optim_states.pt", flip_a_bit, "/{file}: damaged, its SHA-256 is not"),
        ("zero_pp_rank_0_mp_rank_00_optim_states.pt", truncate, "/{file}: damaged, its SHA-256 is not the one"),
        ("rank-00000-of-00001.safetensors", Path.unlink, "/{file}: missing, though checkpoint.json lists it"),
        ("rank-00000-of-00001.safetensors", garbage_listed_again, "/{file}: cannot be read ("),
        ("zero_pp_rank_0_mp_rank_00_optim_states.pt", garbage_listed_again, "/{file}: cannot be read ("),
        (TAG_MANIFEST, Path.unlink, ": has no checkpoint.json, so it is not complete"),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    workshop: Workshop, copy: RunFolder, file: str, damage: Callable[[Path], None], says: str
) -> None:
    newest, before = complete_tags(copy.checkpoints)
    damage(newest / file)
    ranks = workshop.start(copy.path.name, JUST_BEGIN, world_size=1)
    assert ranks.wait() == [75], ranks.said()
    lines = ranks.said().splitlines()
    assert f"resumes from {before}, step {before.name.removeprefix('global_step')}" in lines
    [told] = [line for line in lines if line.endswith("; trying the previous one")]
    assert told.startswith(f"{newest}{says.format(file=file)}")
    assert newest not in complete_tags(copy.checkpoints), "no run resumes from it again"
    assert run_command(["audit", str(copy.path)]) == 0


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            flip_a_bit,
            "/masks-00000-of-00001.safetensors: damaged, its SHA-256 is not the one in checkpoint.json",
        ),
        (
            truncate,
            "/checkpoints: none of its checkpoints is complete any more: restore the files, or remove",
        ),
    ],
)
def test_a_run_without_a_good_checkpoint_is_refused(
    workshop: Workshop, copy: RunFolder, damage: Callable[[Path], None], says: str
) -> None:
    tags = complete_tags(copy.checkpoints)
    for tag in tags:
        damage(tag / "masks-00000-of-00001.safetensors")
    ranks = workshop.start(copy.path.name, world_size=1)
    assert ranks.wait() == [2]
    [line] = ranks.error_lines()
    assert says in line
    assert all(tag.is_dir() for tag in tags), "nothing is thrown away"


def plain(stopped: RunFolder, folder: Path) -> Path:
    """The newest checkpoint without dsprune's files."""
    tag = shutil.copytree(complete_tags(stopped.checkpoints)[0], folder / "plain")
    for path in [*tag.glob("masks-*"), *tag.glob("rank-*"), tag / MANIFEST, tag / TAG_MANIFEST]:
        path.unlink()
    (folder / "latest").write_text("plain")
    return folder


def test_a_checkpoint_without_masks_is_refused_unless_its_zeros_may_be_masks(
    workshop: Workshop, stopped: RunFolder, tmp_path: Path
) -> None:
    checkpoint = plain(stopped, tmp_path)
    ranks = workshop.start("plain", f"--resume={checkpoint}", world_size=1)
    assert ranks.wait() == [2], ranks.said()
    assert ranks.error_lines() == [
        f"dsprune: {checkpoint}/plain: no dsprune.json, so no masks: copy both too, or use masks_from=zeros "
        f"(--masks-from zeros) to make masks of the weights' exact zeros, or masks_from=none to start dense"
    ]
    ranks = workshop.start("plain", f"--resume={checkpoint}", "--masks-from=zeros", JUST_BEGIN, world_size=1)
    assert ranks.wait() == [75], ranks.said()
    run = workshop.run("plain")
    [tag] = complete_tags(run.checkpoints)
    taken = {name: entry.num_pruned for name, entry in read_manifest(tag).tensors.items()}
    newest = complete_tags(stopped.checkpoints)[0]
    known = {name: entry.num_pruned for name, entry in read_manifest(newest).tensors.items()}
    assert taken == known
    assert run_command(["audit", str(run.path)]) == 0


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("zero0", "the loss is NaN or inf at step "),
        ("zero2", "100 steps in a row were skipped, with NaN or inf in their gradients: "),
    ],
)
def test_nan_and_inf_end_the_run(workshop: Workshop, config: str, says: str) -> None:
    """DeepSpeed itself looks at the gradients from stage 1 on, in fp32 too."""
    name = f"nan-{config}"
    ranks = workshop.start(name, "learning_rate.peak=1000", f"deepspeed={config}", world_size=1)
    assert ranks.wait() == [1], ranks.said()
    [line] = ranks.error_lines()
    assert line.startswith(f"dsprune: rank 0: {says}")
    assert line.endswith("earlier checkpoints are good")
    assert (status_of(workshop.run(name)).state, complete_tags(workshop.run(name).checkpoints)) == (
        "failed",
        [],
    )


def test_a_rank_that_hangs_ends_the_run(workshop: Workshop) -> None:
    ranks, run = workshop.start("hangs", ENDLESS, "timeout=4"), workshop.run("hangs")
    wait_for(ranks, run, 2)
    ranks.signal(signal.SIGSTOP, [1])
    started = time.monotonic()
    while ranks.processes[0].exitcode is None:
        assert time.monotonic() - started < 60
        time.sleep(0.05)
    ranks.signal(signal.SIGKILL, [1])
    assert ranks.wait() == [1, -9]
    [line] = ranks.error_lines()
    assert line.startswith("dsprune: rank 0: ")
    assert "run the same command to resume from the newest checkpoint" in line


def test_a_rank_with_another_recipe_is_refused(workshop: Workshop) -> None:
    ranks = workshop.start("differs", last=["optimizer.eps=0.1"])
    assert ranks.wait() == [2, 2]
    [line] = ranks.error_lines()
    host = os.uname().nodename
    assert line == (
        f"dsprune: rank 1 on {host}: recipe optimizer.eps is 0.1, and 1e-08 on rank 0 on {host}: "
        f"give all ranks the same"
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Room for one checkpoint of the tiny model, not for two."""
    with small_disk(tmp_path / "disk", "700k") as folder:
        yield folder


def test_a_full_disk_is_told_and_leaves_the_checkpoint_before(workshop: Workshop, disk: Path) -> None:
    ranks = workshop.start("full", f"output={disk}", world_size=1)
    assert ranks.wait() == [1], ranks.said()
    [line] = ranks.error_lines()
    run = RunFolder(disk / "full")
    assert "cannot be written (" in line
    assert "bytes were free): make room, then run the same command again: it resumes" in line
    [tag] = complete_tags(run.checkpoints)
    subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
    ranks = workshop.start("full", f"output={disk}", world_size=1)
    assert ranks.wait() == [0], ranks.said()
    assert f"resumes from {tag}, step {tag.name.removeprefix('global_step')}" in ranks.said().splitlines()
    assert run_command(["audit", str(run.path)]) == 0


def test_a_full_disk_under_a_model_is_an_error_of_the_system_and_leaves_the_one_before(disk: Path) -> None:
    def write(temporary: Path, num_weights: int) -> None:
        temporary.mkdir()
        save_file({"weight": torch.zeros(num_weights)}, temporary / "model.safetensors")

    replace_folder(disk / "model", lambda temporary: write(temporary, 2**10))
    with pytest.raises(OSError, match=r"No space left on device: .*model'") as caught:
        replace_folder(disk / "model", lambda temporary: write(temporary, 2**20))
    assert caught.value.errno == errno.ENOSPC, "which the command tells in one line"
    assert [path.name for path in disk.iterdir()] == ["model"]
    assert load_file(disk / "model" / "model.safetensors")["weight"].numel() == 2**10


def test_a_file_that_does_not_fit_on_a_full_disk_is_named(tmp_path: Path, disk: Path) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path / "recipe.yaml", tmp_path, tmp_path)))
    run = RunFolder(disk / "run")
    run.path.mkdir()
    timetable = build_timetable(recipe.pruning, recipe.learning_rate, recipe.budget, 10)
    tracker = Tracker(recipe, run, timetable, Ranks(0, 0, 1), ClientState())
    with pytest.raises(OSError, match=r"No space left on device: .*filled'"), errors_named(disk / "filled"):
        (disk / "filled").write_bytes(bytes(2**20))
    with pytest.raises(OSError, match=r"No space left on device: .*report.md'"):
        replace_text(disk / "report.md", "text")
    for end in (lambda: tracker.log(1, {"loss": 0.5}), tracker.close):
        with pytest.raises(OSError, match=r"No space left on device: .*metrics.jsonl'"):
            end()
    assert sorted(path.name for path in disk.iterdir()) == ["filled", "run"]


def test_a_command_on_a_full_disk_leaves_nothing_and_works_with_more_room(
    tmp_path: Path, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny_sentiment(tmp_path / "data") / "train.csv"
    commands = (["slurm-scripts", str(disk / "scripts")], ["new", str(disk / "mine"), "--data", str(data)])
    with suppress(OSError):
        (disk / "filled").write_bytes(bytes(2**20))
    for command in commands:
        assert run_command(command) == 1
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dsprune: ")]
        assert line.startswith(f"dsprune: {disk}/")
        assert "No space left on device: free some space, and run the same command again" in line
    assert [path.name for path in disk.iterdir()] == ["filled"]
    (disk / "filled").unlink()
    for command in commands:
        assert run_command(command) == 0
    assert sorted(path.name for path in disk.iterdir()) == ["mine-data", "mine.yaml", "scripts"]

"""`dsprune teacher`: the same store from any number of ranks, and after any number of kills."""

import os
import re
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from dsprune.distillation.store import fingerprints, open_store
from dsprune.distillation.store.format import read_manifest
from dsprune.model.pretrained import load_tokenizer
from dsprune.ranks.collectives import Comm
from dsprune.recipe import load_recipe
from dsprune.tasks.build import build_task
from dsprune.testing.commands import Done, command
from dsprune.testing.forked import ForkedRanks
from dsprune.testing.pool import RankFailedError, RankPool
from dsprune.testing.stores import content
from dsprune.testing.tiny import VOCABULARY, tiny_tokenizer
from tests.distilled import LABELS, write_distilled
from tests.system.disks import small_disk

NUM_SHARDS = 5
HIDDEN = ("distillation.kind=hidden", "distillation.dtype=fp32")
BATCH = ("--batch-size", "16")
FEW = ("task.max_train=40",)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_distilled(tmp_path_factory.mktemp("distilled"), num_train=4800)


def arguments(recipe: Path, store: Path, *settings: str) -> tuple[str, ...]:
    return ("teacher", str(recipe), *BATCH, f"distillation.store={store}", *settings)


def teach(pool: RankPool, recipe: Path, store: Path, *settings: str) -> Done:
    """The output of the first rank; all ranks must succeed."""
    answers: list[Done] = pool.run(pool.size, command, *arguments(recipe, store, *settings))
    assert [done.code for done in answers] == [0] * pool.size, answers[0].stderr
    assert all(done.stderr == "" for done in answers[1:]), "only the first rank prints"
    return answers[0]


def refused(pool: RankPool, recipe: Path, store: Path, *settings: str) -> str:
    """The one line of bad input; every rank ends with it."""
    answers: list[Done] = pool.run(pool.size, command, *arguments(recipe, store, *settings))
    assert [done.code for done in answers] == [2] * pool.size
    return answers[0].error_line


@pytest.fixture(scope="module")
def whole(one_rank: RankPool, recipe: Path) -> Path:
    """The store that one process makes without interruption."""
    store = recipe.parent / "whole"
    done = teach(one_rank, recipe, store, *HIDDEN)
    manifest = read_manifest(store)
    assert len(manifest.shards) == NUM_SHARDS
    size = sum(path.stat().st_size for path in store.glob("*.safetensors"))
    [announced] = re.findall(
        rf"teacher: {store}: ([\d,]+) records.*, [\d,]+ rows, kind hidden fp32, ([\d.]+) bytes per record, "
        rf"([\d.]+) kB in all; {NUM_SHARDS} of {NUM_SHARDS} shards to write, [\d.]+ .?B free",
        done.stderr,
    )
    assert int(announced[0].replace(",", "")) == manifest.num_records < 4800, "some are equal"
    assert float(announced[2]) * 1000 == pytest.approx(size, rel=0.02)
    assert f"teacher: finished: {store}" in done.stderr
    return store


# ---- the same content


def test_four_ranks_make_the_same_bytes(recipe: Path, whole: Path, tmp_path: Path) -> None:
    """Two and three are those of the captures that are killed and resumed."""
    with RankPool(4) as pool:
        teach(pool, recipe, tmp_path / "store", *HIDDEN)
    assert content(tmp_path / "store") == content(whole)


def test_a_teacher_sharded_by_zero_3_makes_the_same_store(
    one_rank: RankPool, two_ranks: RankPool, recipe: Path, tmp_path: Path
) -> None:
    """Three shards for two ranks: the rank with fewer shards makes extra forward passes for the other."""
    few = ("task.max_train=2300", "--batch-size", "64", *HIDDEN)
    teach(one_rank, recipe, tmp_path / "plain", *few)
    teach(two_ranks, recipe, tmp_path / "sharded", *few, "--stage", "3")
    assert len(read_manifest(tmp_path / "plain").shards) % 2 == 1
    assert content(tmp_path / "sharded") == content(tmp_path / "plain")


def command_until(comm: Comm, victim: int, file: str, moment: int, *arguments: str) -> Done:
    """`command`, but one rank is killed when it opens or renames a temporary file for the n-th time."""
    left = moment

    def watch(update: str, details: tuple[object, ...]) -> None:
        nonlocal left
        if (
            update in ("open", "os.rename")
            and f".{file}" in str(details[0])
            and str(details[0]).endswith(".tmp")
        ):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    if comm.rank == victim:
        sys.addaudithook(watch)
    return command(comm, *arguments)


def test_killed_at_every_stage_and_resumed_by_any_number_of_ranks(
    recipe: Path, whole: Path, tmp_path: Path
) -> None:
    store, there = tmp_path / "store", set()
    how = arguments(recipe, store, *HIDDEN)
    for world, victim, file, moment in [
        (1, 0, "shard-", 0),  # the first shard has its temporary name
        (2, 0, "shard-", 1),  # before it is renamed; the other rank continues until it misses this one
        (3, 2, "shard-", 0),
        (2, 0, "head", 0),
        (1, 0, "store.json", 1),
        (3, 0, "store.json", 2),
    ]:
        with RankPool(world) as pool, pytest.raises(RankFailedError):
            pool.run(world, command_until, victim, file, moment, *how)
        before, there = there, {path.name for path in store.glob("*") if not path.name.startswith(".")}
        assert there >= before, "written shards are kept"
        assert "store.json" not in there
        assert list(store.glob(".*.tmp")), "it was killed in the middle of something"
    with RankPool(2) as pool:
        teach(pool, recipe, store, *HIDDEN)
    assert content(store) == content(whole)


def test_all_ranks_are_killed_and_one_process_resumes(
    one_rank: RankPool, recipe: Path, whole: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    ranks = ForkedRanks(arguments(recipe, store, *HIDDEN), 2, tmp_path / "logs")
    deadline = time.monotonic() + 200
    while not list(store.glob("shard-*")):
        assert all(process.exitcode is None for process in ranks.processes), ranks.said()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    ranks.signal(signal.SIGKILL)
    assert ranks.wait() == [-signal.SIGKILL] * 2
    assert not (store / "store.json").exists()
    done = teach(one_rank, recipe, store, *HIDDEN)
    assert f"of {NUM_SHARDS} shards to write" in done.stderr
    assert f"; {NUM_SHARDS} of {NUM_SHARDS} shards to write" not in done.stderr
    assert content(store) == content(whole)


def test_a_complete_store_is_not_changed_and_a_missing_file_is_made_again(
    two_ranks: RankPool, recipe: Path, whole: Path, tmp_path: Path
) -> None:
    store = Path(shutil.copytree(whole, tmp_path / "store"))
    done = teach(two_ranks, recipe, store, *HIDDEN)
    assert f"teacher: {store} is complete, {read_manifest(store).num_records:,} records" in done.stderr
    for name in ("shard-00002.safetensors", "head.safetensors"):
        (store / name).unlink()
        teach(two_ranks, recipe, store, *HIDDEN)
        assert content(store) == content(whole)


# ---- what is stored


def test_the_rows_are_the_teachers_outputs(recipe: Path, whole: Path) -> None:
    """By sample, against a plain forward pass of one text at a time."""
    loaded = load_recipe(str(recipe), ["task.max_train=20"])
    task, tokenizer = build_task(loaded.task), load_tokenizer(str(recipe.parent / "student"))
    data = task.prepare("train", tokenizer)
    model = task.build_model(loaded.distillation.teacher, tokenizer).eval()
    store = open_store(whole)
    signal_of = store.fetch(fingerprints(task.samples(data)))["logits"].signal
    found = signal_of.log_probs(slice(None), 2.0, torch.zeros(20, len(LABELS)))
    for row, ids in zip(found, data["input_ids"], strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        torch.testing.assert_close(row, (logits / 2).log_softmax(-1), rtol=1e-4, atol=1e-4)
    assert found.exp().max(-1).values.std() > 0.02, "the teacher is not uniform"


def test_a_teacher_in_bf16(one_rank: RankPool, recipe: Path, tmp_path: Path) -> None:
    teach(one_rank, recipe, tmp_path / "fp32", *FEW, "distillation.kind=full")
    teach(one_rank, recipe, tmp_path / "bf16", *FEW, "distillation.kind=full", "--precision", "bf16")
    stores = [open_store(tmp_path / name) for name in ("fp32", "bf16")]
    assert [store.manifest.origin["precision"] for store in stores] == ["fp32", "bf16"]
    exact, rounded = (store.fetch(store.fingerprints)["logits"].signal.logits.float() for store in stores)
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0.1, atol=0.1)


def test_auto_compares_the_kinds_and_chooses_the_smallest_accurate_one(
    two_ranks: RankPool, recipe: Path, tmp_path: Path
) -> None:
    """Two of eight classes are smaller than all, and not accurate enough."""
    done = teach(two_ranks, recipe, tmp_path / "store", *FEW, "distillation.k=2")
    assert "Kinds of store, bound 0.001 nats" in done.stderr
    for kind, row_bytes, verdict in [
        ("topk", 2 * 3 + 4, "over the bound"),
        ("full", 8 * 2, "chosen"),
        ("hidden", 32 * 2, ""),
    ]:
        [row] = [line for line in done.stderr.splitlines() if line.startswith(f"  {kind} fp16 ")]
        name, dtype, size, error, *found = row.split()
        assert (name, dtype, size, " ".join(found)) == (kind, "fp16", str(row_bytes), verdict)
        assert (float(error) > 1e-3) == (verdict == "over the bound")
    assert read_manifest(tmp_path / "store").spec.kind == "full"


def test_without_a_store_in_the_recipe_it_prints_how_to_use_the_new_one(
    one_rank: RankPool, recipe: Path, tmp_path: Path
) -> None:
    how = ("teacher", str(recipe), *FEW, f"output={tmp_path}")
    [done] = one_rank.run(1, command, *how)
    assert f"to train with it: distillation.store={tmp_path / 'distilled-teacher'}" in done.stderr
    open_store(tmp_path / "distilled-teacher")


# ---- what is refused


def test_a_store_of_another_teacher_is_not_changed(two_ranks: RankPool, recipe: Path, whole: Path) -> None:
    before = content(whole)
    other = recipe.parent / "student"
    for settings, differs in [
        ((f"distillation.teacher={other}",), "teacher is"),
        (("task.max_length=23",), "preprocessing is TextClassification of at most 24 tokens into"),
        (("task.max_train=4000",), "dataset is"),
        (("distillation.kind=full",), "kind is hidden in the store and full here"),
        (("distillation.dtype=bf16",), "dtype is fp32 in the store and bf16 here"),
    ]:
        message = refused(two_ranks, recipe, whole, *HIDDEN, *settings)
        assert f"{whole}: the store does not match: {differs}" in message
    assert content(whole) == before


def test_a_top_k_store_must_hold_the_temperatures(one_rank: RankPool, recipe: Path, tmp_path: Path) -> None:
    topk = (*FEW, "distillation.kind=topk", "distillation.k=4", "distillation.temperatures=[1.0]")
    teach(one_rank, recipe, tmp_path, *topk)
    assert "nothing to do" in teach(one_rank, recipe, tmp_path, *topk, "distillation.temperature=1").stderr
    assert (
        f"distillation.temperature: value 3: {tmp_path} is of kind topk and holds 1, 2 only: use one of them, or "
        "make another store"
    ) in refused(one_rank, recipe, tmp_path, *topk, "distillation.temperature=3")
    ramp = "distillation.temperature={first: 1.0, final: 2.0}"
    assert (
        f"distillation.temperature: from 1 to 2: {tmp_path} is of kind topk and holds 1, 2 only"
        in refused(one_rank, recipe, tmp_path, *FEW, ramp)
    )


def test_too_little_room_is_an_error_before_the_teacher_runs(
    two_ranks: RankPool, recipe: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "400k") as disk:
        how = arguments(recipe, disk / "store", *HIDDEN)
        answers = two_ranks.run(2, command, *how)
    assert [done.code for done in answers] == [2, 2]
    assert re.search(
        r"store: [\d.]+ kB to write and [\d.]+ kB free: make room, give another distillation.store, or a smaller",
        answers[0].error_line,
    )


def command_with_small_files(comm: Comm, *arguments: str) -> Done:
    """`command`, where files of more than 4,000 bytes cannot be written, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        return command(comm, *arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("stage", ["0", "3"])
def test_a_full_disk_ends_all_ranks_and_leaves_no_partial_files(
    two_ranks: RankPool, recipe: Path, tmp_path: Path, stage: str
) -> None:
    how = (*HIDDEN, "task.max_train=600", "--batch-size", "64", "--stage", stage)
    answers = two_ranks.run(2, command_with_small_files, *arguments(recipe, tmp_path / "store", *how))
    assert [done.code for done in answers] == [2, 2]
    assert f"{tmp_path / 'store'}: cannot be written (" in answers[0].error_line
    assert "fix that and start again" in answers[0].error_line
    assert not (tmp_path / "store").exists()
    teach(two_ranks, recipe, tmp_path / "store", *how)


def test_hidden_states_need_a_linear_layer_that_makes_the_outputs(
    one_rank: RankPool, recipe: Path, tmp_path: Path
) -> None:
    """GPT-2 classifies every token, and uses the logits of the last one."""
    names = {"id2label": LABELS, "label2id": {name: number for number, name in LABELS.items()}}
    config = GPT2Config(
        vocab_size=len(VOCABULARY),
        n_positions=32,
        n_embd=8,
        n_layer=1,
        n_head=1,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        **names,
    )
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path / "gpt2")
    tiny_tokenizer().save_pretrained(tmp_path / "gpt2")
    how = (*FEW, f"distillation.teacher={tmp_path / 'gpt2'}")
    assert (
        "distillation.kind: value hidden: this task's outputs are not made by one linear layer: use full, or topk"
    ) in refused(one_rank, recipe, tmp_path / "store", *how, "distillation.kind=hidden")
    assert "hidden fp16" not in teach(one_rank, recipe, tmp_path / "store", *how).stderr


def test_a_recipe_without_a_teacher(one_rank: RankPool, recipe: Path) -> None:
    [done] = one_rank.run(1, command, "teacher", str(recipe), "distillation=null")
    assert done.error_line == (
        "dsprune: recipe 'distilled': a store needs the sections model, task and distillation: add them"
    )


def test_a_folder_with_other_files(one_rank: RankPool, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    message = refused(one_rank, recipe, tmp_path, *FEW)
    assert "thesis.txt: not a file of a store: give `dsprune teacher` a new or empty folder" in message
    assert content(tmp_path) == {"thesis.txt": b"mine"}

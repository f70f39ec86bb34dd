"""Masks on disk, read and written by one process in place of any number of ranks."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsprune.checkpoint.audit import audit_folder
from dsprune.errors import UserError
from dsprune.masks.bits import pack, unpack
from dsprune.masks.manifest import MANIFEST, FileEntry, MaskManifest, read_manifest
from dsprune.masks.mask_files import read_marked_masks, read_masks, write_masks
from dsprune.masks.mask_set import MaskSet
from dsprune.masks.slice_files import entry_of
from dsprune.model.shard import PrunableTensor, Shard, equal_part, parts_of
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Pruning
from dsprune.schedule import MaskUpdate, Timetable
from dsprune.testing.commands import TIMEOUT
from dsprune.testing.damage import flip_a_bit, truncate
from dsprune.utils.files import sha256_of

TIMETABLE = Timetable(9, 9, 0, (MaskUpdate(4, 0.5),), True, 0.1, 0.1, 0.0)
TENSORS = (PrunableTensor("up", (5, 7)), PrunableTensor("down", (3, 3), 0.5), PrunableTensor("one", (1, 1)))


def kept(tensor: PrunableTensor) -> Tensor:
    generator = torch.Generator().manual_seed(tensor.numel)
    return torch.rand(tensor.numel, generator=generator) > 0.4


def whole() -> list[Shard]:
    return [Shard(tensor, 0, tensor.numel) for tensor in TENSORS]


def marked(tensor: PrunableTensor) -> Tensor:
    """Every third weight, if it is kept."""
    return kept(tensor) & (torch.arange(tensor.numel) % 3 == 0)


def mask_set(shards: Sequence[Shard], *, regrows: bool = False) -> MaskSet:
    masks = MaskSet(shards, regrows=regrows)
    rows = ([pack(of(s.tensor)[s.start : s.start + s.numel]) for s in shards] for of in (kept, marked))
    masks.replace(*rows) if regrows else masks.replace(next(rows))
    return masks


def write(
    folder: Path, shards: Sequence[Shard] | None = None, step: int = 7, *, regrows: bool = False
) -> Path:
    masks = mask_set(whole() if shards is None else shards, regrows=regrows)
    write_masks(folder, masks, Comm(), step=step, timetable=TIMETABLE, pruning=Pruning(sparsity=0.5))
    return folder


def cut(*cuts: int) -> list[list[Shard]]:
    """Cut the concatenated tensors into the parts of ranks, like ZeRO."""
    bounds = [0, *sorted(cuts), sum(tensor.numel for tensor in TENSORS)]
    ranks = []
    for low, high in pairwise(bounds):
        offset, shards = 0, []
        for tensor in TENSORS:
            start, stop = (min(max(bound - offset, 0), tensor.numel) for bound in (low, high))
            shards.append(Shard(tensor, start, stop - start))
            offset += tensor.numel
        ranks.append(shards)
    return ranks


def write_by_ranks(folder: Path, ranks: Sequence[Sequence[Shard]], *, regrows: bool = False) -> Path:
    """Write masks like `write_masks` on several ranks: their files in one manifest."""
    entries = []
    for rank, shards in enumerate(ranks):
        write(folder / "one", shards, regrows=regrows)
        path = folder / f"masks-{rank:05d}-of-{len(ranks):05d}.safetensors"
        (folder / "one" / "masks-00000-of-00001.safetensors").rename(path)
        entries.append(entry_of(path, shards))
    manifest = read_manifest(folder / "one").model_copy(update={"files": tuple(entries)})
    (folder / MANIFEST).write_text(manifest.to_json())
    return folder


def change(folder: Path, **update: object) -> None:
    """Edit the manifest of a folder."""
    values = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(values | update))


CUTS = st.lists(st.integers(0, sum(tensor.numel for tensor in TENSORS)), max_size=4)


@settings(max_examples=10, deadline=None)
@given(written=CUTS, read=CUTS)
def test_marks_of_regrown_weights_are_read_by_any_ranks(
    tmp_path_factory: pytest.TempPathFactory, written: list[int], read: list[int]
) -> None:
    folder = write_by_ranks(tmp_path_factory.mktemp("masks"), cut(*written), regrows=True)
    for shards in cut(*read):
        rows = read_marked_masks(folder, read_manifest(folder), shards)
        for of, found in zip((kept, marked), rows, strict=True):
            for shard, bits in zip(shards, found, strict=True):
                expected = of(shard.tensor)[shard.start : shard.start + shard.numel]
                assert torch.equal(unpack(bits, shard.numel), expected)


@settings(max_examples=30)
@given(st.lists(st.lists(st.booleans(), min_size=11, max_size=11), min_size=1, max_size=6))
def test_a_weight_is_marked_from_its_return_to_its_next_pruning(history: list[list[bool]]) -> None:
    masks = MaskSet([Shard(PrunableTensor("w", (11,)), 0, 11)], regrows=True)
    before, expected = [True] * 11, [False] * 11
    for now in history:
        bits = [pack(torch.tensor(now))]
        masks.replace(bits, masks.marks_after(bits))
        expected = [keep and (mark or not was) for keep, was, mark in zip(now, before, expected, strict=True)]
        before = now
        assert unpack(masks.regrown[0], 11).tolist() == expected
        assert masks.counts_regrown(Comm()) == [sum(expected)]
    assert masks.nbytes == 2 * 2
    masks.replace(masks.bits)
    assert masks.counts_regrown(Comm()) == [0]


@settings(max_examples=30)
@given(written=CUTS, read=CUTS)
def test_shards_cut_anywhere_read_what_shards_cut_anywhere_else_wrote(
    tmp_path_factory: pytest.TempPathFactory, written: list[int], read: list[int]
) -> None:
    folder = write_by_ranks(tmp_path_factory.mktemp("masks"), cut(*written))
    for shards in cut(*read):
        for shard, bits in zip(shards, read_masks(folder, read_manifest(folder), shards), strict=True):
            expected = kept(shard.tensor)[shard.start : shard.start + shard.numel]
            assert torch.equal(unpack(bits, shard.numel), expected)


def test_the_manifest_says_what_was_written(tmp_path: Path) -> None:
    write(tmp_path, step=3)
    manifest = read_manifest(tmp_path)
    assert (manifest.format, manifest.step, manifest.timetable, manifest.scope) == (2, 3, TIMETABLE, "global")
    assert manifest.digest == mask_set(whole()).digest(Comm())
    assert {name: (e.shape, e.target, e.num_pruned) for name, e in manifest.tensors.items()} == {
        tensor.name: (tensor.shape, 0.5, int((~kept(tensor)).sum())) for tensor in TENSORS
    }
    [entry] = manifest.files
    assert entry == FileEntry(
        file="masks-00000-of-00001.safetensors", sha256=sha256_of(tmp_path / entry.file)
    )
    assert [entry.slice_of(tensor) for tensor in TENSORS] == [(0, tensor.numel) for tensor in TENSORS]
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, entry.file]


def equal_parts(world: int) -> list[list[Shard]]:
    """The shards of each rank at ZeRO stage 3."""
    return [
        [Shard(tensor, *equal_part(tensor.numel, rank, world)) for tensor in TENSORS] for rank in range(world)
    ]


def test_equal_parts_are_those_of_a_padded_tensor() -> None:
    for numel, count in product(range(1, 12), range(1, 7)):
        padded = torch.arange(-(-numel // count) * count).view(count, -1)
        for number, part in enumerate(padded):
            start, length = equal_part(numel, number, count)
            assert list(range(start, start + length)) == part[part < numel].tolist()
            shard = Shard(PrunableTensor("w", (numel,)), start, length)
            assert list(parts_of(shard, count)) == ([number] if length else [])


@pytest.mark.parametrize("world", [1, 3, 6])
def test_equal_parts_are_not_listed_and_read_by_any_ranks(tmp_path: Path, world: int) -> None:
    write_by_ranks(tmp_path, equal_parts(world), regrows=True)
    manifest = read_manifest(tmp_path)
    assert "slices" not in (tmp_path / MANIFEST).read_text()
    assert [entry.part for entry in manifest.files] == [(rank, world) for rank in range(world)]
    for shards in [*cut(17, 40), *equal_parts(2), *equal_parts(world)]:
        for of, rows in zip((kept, marked), read_marked_masks(tmp_path, manifest, shards), strict=True):
            for shard, bits in zip(shards, rows, strict=True):
                assert torch.equal(
                    unpack(bits, shard.numel), of(shard.tensor)[shard.start : shard.start + shard.numel]
                )


def test_other_parts_are_listed(tmp_path: Path) -> None:
    write_by_ranks(tmp_path, cut(20))
    assert [entry.slices for entry in read_manifest(tmp_path).files] == [
        {"up": (0, 20)},
        {"up": (20, 15), "down": (0, 9), "one": (0, 1)},
    ]


def test_an_equal_part_that_is_missing_is_refused(tmp_path: Path) -> None:
    write_by_ranks(tmp_path, equal_parts(3))
    first, _, last = json.loads((tmp_path / MANIFEST).read_text())["files"]
    change(tmp_path, files=[first, last])
    with pytest.raises(UserError, match=r"dsprune.json: up has \d+ of 35 bits: use another checkpoint"):
        read_masks(tmp_path, read_manifest(tmp_path), whole())


@pytest.mark.parametrize(
    "file", ["masks-.safetensors", "masks-00003-of-00003.safetensors", "masks-00000-of-00000.safetensors"]
)
def test_a_file_that_tells_no_part_is_refused(tmp_path: Path, file: str) -> None:
    write(tmp_path)
    change(tmp_path, files=[{"file": file, "sha256": "0" * 64}])
    with pytest.raises(
        UserError, match=rf"dsprune.json: .*\(files.0: value .*: {file} has no slices, and its"
    ):
        read_manifest(tmp_path)


def test_a_file_of_another_number_of_parts_is_refused(tmp_path: Path) -> None:
    write_by_ranks(tmp_path, equal_parts(3))
    (tmp_path / "masks-00000-of-00003.safetensors").rename(tmp_path / "masks-00000-of-00002.safetensors")
    first, *others = json.loads((tmp_path / MANIFEST).read_text())["files"]
    change(tmp_path, files=[first | {"file": "masks-00000-of-00002.safetensors"}, *others])
    with pytest.raises(UserError, match=r"masks-00000-of-00002.safetensors: does not hold the 18 bits of up"):
        read_masks(tmp_path, read_manifest(tmp_path), whole())


def test_writing_again_replaces(tmp_path: Path) -> None:
    write(tmp_path, step=1)
    write(tmp_path, step=2)
    assert read_manifest(tmp_path).step == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_only_the_files_that_hold_something_of_a_rank_are_opened(tmp_path: Path) -> None:
    ranks = cut(35)  # behind the first tensor
    write_by_ranks(tmp_path, ranks)
    (tmp_path / "masks-00001-of-00002.safetensors").unlink()
    read_masks(tmp_path, read_manifest(tmp_path), ranks[0])
    with pytest.raises(UserError, match=r"masks-00001-of-00002.safetensors: missing"):
        read_masks(tmp_path, read_manifest(tmp_path), ranks[1])


# ---- damage


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "Invalid JSON: EOF while parsing an object"),
        (b"", "Invalid JSON: EOF while parsing a value"),
        (b"\xff\xfe", "Invalid JSON: expected value"),
        (b"[]", "should be an object"),
        (b'{"format": 3}', "Input should be 2"),
        (b'{"format": 2}', "Field required"),
        (b'{"format": 1}', "pruning"),
        (b'{"format": 1, "pruning": 3, "timetable": {}, "tensors": {}}', "pop|subscript|events"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: bytes, reason: str) -> None:
    write(tmp_path)
    (tmp_path / MANIFEST).write_bytes(text)
    with pytest.raises(UserError, match=rf"dsprune.json: not a manifest of format 1 or 2 \(.*({reason})"):
        read_manifest(tmp_path)


def test_a_manifest_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    change(tmp_path, extra=1)
    with pytest.raises(
        UserError, match=r"not a manifest of format 1 or 2 \(extra: value 1: Extra inputs are not permitted\)"
    ):
        read_manifest(tmp_path)


def test_a_folder_without_a_manifest_has_no_masks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no dsprune.json, so no masks: give a folder that dsprune wrote"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "missing, but dsprune.json lists it"),
        (flip_a_bit, "damaged, its SHA-256 is not the one in dsprune.json"),
        (truncate, "damaged, its SHA-256 is not the one in dsprune.json"),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    write(tmp_path)
    damage(tmp_path / "masks-00000-of-00001.safetensors")
    with pytest.raises(UserError, match=f"masks-00000-of-00001.safetensors: {message}"):
        read_masks(tmp_path, read_manifest(tmp_path), whole())


def with_true_checksum(folder: Path) -> MaskManifest:
    """The manifest with the checksum of the changed file."""
    manifest = read_manifest(folder)
    [entry] = manifest.files
    entry = entry.model_copy(update={"sha256": sha256_of(folder / entry.file)})
    return manifest.model_copy(update={"files": (entry,)})


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "masks-00000-of-00001.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(UserError, match=r"masks-00000-of-00001.safetensors: not a safetensors file \("):
        read_masks(tmp_path, with_true_checksum(tmp_path), whole())


@pytest.mark.parametrize("bits", [None, torch.zeros(1, dtype=torch.uint8), torch.zeros(5)])
def test_a_file_that_holds_other_slices_than_the_manifest_says_is_refused(
    tmp_path: Path, bits: Tensor | None
) -> None:
    write(tmp_path)
    path = tmp_path / "masks-00000-of-00001.safetensors"
    tensors = load_file(path)
    del tensors["up"]
    save_file(tensors if bits is None else tensors | {"up": bits}, path)
    with pytest.raises(UserError, match=r"safetensors: does not hold the 35 bits of up that"):
        read_masks(tmp_path, with_true_checksum(tmp_path), whole())


def test_incomplete_coverage_is_refused(tmp_path: Path) -> None:
    write_by_ranks(tmp_path, cut(11, 20))
    first, _, last = read_manifest(tmp_path).files
    change(tmp_path, files=[first.model_dump(), last.model_dump()])
    with pytest.raises(UserError, match=r"dsprune.json: up has 26 of 35 bits: use another checkpoint"):
        read_masks(tmp_path, read_manifest(tmp_path), whole())


def test_a_bit_that_two_files_claim_does_not_make_up_for_a_missing_one(tmp_path: Path) -> None:
    write_by_ranks(tmp_path, cut(11, 22))
    first, _, last = (entry.model_dump() for entry in read_manifest(tmp_path).files)
    change(tmp_path, files=[first, first, last])
    with pytest.raises(UserError, match=r"dsprune.json: up has 24 of 35 bits: use another checkpoint"):
        read_masks(tmp_path, read_manifest(tmp_path), whole())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ((PrunableTensor("up", (7, 5)), *TENSORS[1:]), r"up has shape \(5, 7\) there and \(7, 5\) here"),
        (TENSORS[:2], r"one has shape \(1, 1\) there and None here"),
        ((*TENSORS, PrunableTensor("more", (2,))), r"more has shape None there and \(2,\) here"),
    ],
)
def test_masks_of_other_tensors_are_refused(
    tmp_path: Path, tensors: tuple[PrunableTensor, ...], message: str
) -> None:
    write(tmp_path)
    shards = [Shard(tensor, 0, tensor.numel) for tensor in tensors]
    with pytest.raises(UserError, match=f"{message}: the masks are of another model, or pruning.include"):
        read_masks(tmp_path, read_manifest(tmp_path), shards)


# ---- a write that fails

FULL_DISK = """
import resource, sys
from pathlib import Path
from safetensors import SafetensorError
from tests.unit.test_mask_files import write

folder = Path(sys.argv[1])
before = {path.name: path.read_bytes() for path in folder.iterdir()}
for limit in (0, 100, 500):  # bytes a file: the masks find no room, or the manifest alone
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write(folder, step=8)
    except (OSError, SafetensorError):
        left = {path.name: path.read_bytes() for path in folder.iterdir()}
        print("failed", "as before" if left == before else sorted(left))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
write(folder, step=9)
"""


def test_a_write_that_finds_no_room_leaves_what_was_there(tmp_path: Path) -> None:
    write(tmp_path, step=7)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert 100 < sizes["masks-00000-of-00001.safetensors"] < 500 < sizes[MANIFEST]
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT)
    said = [line for line in done.stdout.splitlines() if line.startswith("failed")]  # DeepSpeed prints too
    assert said == ["failed as before"] * 3
    assert read_manifest(tmp_path).step == 9, "without the limit the same write is fine"


# ---- format 1


FORMAT_1 = Path(__file__).parents[1] / "data" / "masks-format-1"
"""A model folder that version 0.1 wrote: BERT of two layers and width 16, two ranks, 12 steps, targets 0.8 and 0.5."""


def test_a_manifest_of_format_1_is_read() -> None:
    manifest = read_manifest(FORMAT_1)
    assert (manifest.format, manifest.step, manifest.scope) == (2, 12, "global")
    assert [update.step for update in manifest.timetable.updates] == [0, 5, 10]
    targets = {name: entry.target for name, entry in manifest.tensors.items()}
    assert targets.pop("bert.encoder.layer.1.output.dense.weight") == 0.5
    assert set(targets.values()) == {0.8}
    assert len(targets) == 10


def test_masks_of_format_1_are_audited() -> None:
    result = audit_folder(FORMAT_1)
    assert result.findings == ()
    assert sum(result.counts) == sum(entry.num_pruned for entry in read_manifest(FORMAT_1).tensors.values())

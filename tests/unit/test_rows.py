"""In scope `row` every row keeps the same number of weights; the oracle treats each row as a tensor."""

from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2Model

from dsprune.checkpoint.audit import audit_folder
from dsprune.errors import UserError
from dsprune.masks.bits import unpack_part
from dsprune.masks.cut_bands import band_bytes
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Pruning
from dsprune.recipe.loading import check_recipe
from dsprune.recipe.pattern import Pattern
from dsprune.selection.compensate import divided
from dsprune.selection.groups import Group, make_groups, update_groups
from dsprune.selection.patterned import select_tiles
from dsprune.selection.regrow import select_regrowing
from dsprune.selection.rows import count_rows
from dsprune.selection.select import select
from dsprune.selection.tiles import Tiling
from dsprune.selection.traffic import row_bytes, update_bytes
from dsprune.selection.weights import weights_to_prune
from dsprune.testing.methods import cut_randomly, join, packed_parts, regrow_dense, scorers_of, select_dense
from dsprune.testing.patterned import select_dense_tiles
from dsprune.testing.threads import run_threads
from tests.unit.sparse import QUERY, bert, save_sparse

TENSORS = [
    PrunableTensor(f"layer.{place}.weight", shape)
    for place, shape in enumerate([(9, 16), (16, 8), (3, 4, 24), (12, 8, 1, 1), (1, 20)])
]
TENSORS += [
    PrunableTensor(f"turned.{place}.weight", shape, inputs_first=True)
    for place, shape in enumerate([(16, 9), (2, 8, 12)])
]


def normal(seed: int, *, ties: bool = False) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(tensor.numel, generator=generator) for tensor in TENSORS]
    return [(value * 2).round() for value in values] if ties else values


def all_kept(tensors: Sequence[PrunableTensor] = TENSORS) -> list[Tensor]:
    return [torch.ones(tensor.numel, dtype=torch.bool) for tensor in tensors]


def groups_of(sparsity: float, pattern: str = "unstructured") -> list[Group]:
    return make_groups(TENSORS, [sparsity] * len(TENSORS), "row", Pattern.parse(pattern))


def in_rows(values: Sequence[Tensor], groups: Sequence[Group]) -> list[Tensor]:
    """The weights of each output of all tensors."""
    rows = []
    for tensor, value, group in zip(TENSORS, values, groups, strict=True):
        if tensor.inputs_first:
            value = value.view(tensor.shape).transpose(-2, -1).reshape(-1)
        rows += value.split(group.row)
    return rows


def as_groups(groups: Sequence[Group]) -> list[Group]:
    """A group for each row."""
    sizes = [
        (group.row, group.num_pruned // group.num_rows) for group in groups for _ in range(group.num_rows)
    ]
    return [Group(str(place), (place,), *numbers) for place, numbers in enumerate(sizes)]


def thin(
    comm: Comm,
    ranks: Sequence[Sequence[Shard]],
    scores: Sequence[Tensor],
    kept: Sequence[Tensor],
    groups: Sequence[Group],
) -> tuple[list[Tensor], int, list[int]]:
    shards = ranks[comm.rank]
    new = select(shards, scorers_of(scores, shards), packed_parts(kept, shards), groups, comm)
    sent = comm.bytes_sent
    return new, sent, count_rows(shards, new, groups, torch.ne, comm)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_each_row_keeps_its_highest_scores_on_any_number_of_ranks(world: int, seed: int) -> None:
    scores, kept = normal(seed, ties=seed % 2 == 1), all_kept()
    ranks = cut_randomly(TENSORS, world, seed=10 * world + seed)
    for sparsity in (0.0, 0.3, 0.85):
        groups = groups_of(sparsity)
        results = run_threads(world, thin, ranks, scores, kept, groups)
        new = join(ranks, [bits for bits, _, _ in results])
        expected = select_dense(in_rows(scores, groups), in_rows(kept, groups), as_groups(groups))
        assert all(map(torch.equal, in_rows(new, groups), expected))
        for row in in_rows(new, groups):
            assert int((~row).sum()) == round(sparsity * row.numel())
        assert all(wrong == [0] * len(TENSORS) for _, _, wrong in results)
        most = update_bytes(groups, world) + row_bytes(groups, world)
        assert all(sent <= most for _, sent, _ in results)
        kept = new


def regrow(
    comm: Comm,
    ranks: Sequence[Sequence[Shard]],
    scores: Sequence[Tensor],
    growth: Sequence[Tensor],
    kept: Sequence[Tensor],
    groups: Sequence[Group],
) -> tuple[list[Tensor], int]:
    shards = ranks[comm.rank]
    scorers = scorers_of(scores, shards), scorers_of(growth, shards)
    new = select_regrowing(shards, *scorers, packed_parts(kept, shards), groups, 0.3, comm)
    return new, comm.bytes_sent


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("ties", [False, True])
def test_fan_in_stays_fixed_while_weights_grow_back(world: int, ties: bool) -> None:
    scores, growth, groups = normal(1, ties=ties), normal(2, ties=ties), groups_of(0.7)
    rows, alone = as_groups(groups), cut_randomly(TENSORS, 1, seed=0)
    kept = join(alone, [thin(Comm(), alone, normal(3), all_kept(), groups)[0]])
    ranks = cut_randomly(TENSORS, world, seed=world)
    results = run_threads(world, regrow, ranks, scores, growth, kept, groups)
    new = join(ranks, [bits for bits, _ in results])
    values = (in_rows(part, groups) for part in (scores, growth, kept))
    assert all(map(torch.equal, in_rows(new, groups), regrow_dense(*values, rows, 0.3)))
    for row in in_rows(new, groups):
        assert int((~row).sum()) == round(0.7 * row.numel())
    assert all((mask & ~old).any() for mask, old in zip(new, kept, strict=True))
    most = update_bytes(groups, world, regrows=True) + row_bytes(groups, world, regrows=True)
    assert all(sent <= most for _, sent in results)


def thin_tiles(
    comm: Comm,
    ranks: Sequence[Sequence[Shard]],
    scores: Sequence[Tensor],
    kept: Sequence[Tensor],
    groups: Sequence[Group],
    text: str,
) -> tuple[list[Tensor], int]:
    shards, pattern = ranks[comm.rank], Pattern.parse(text)
    new = select_tiles(shards, scorers_of(scores, shards), packed_parts(kept, shards), groups, comm, pattern)
    return new, comm.bytes_sent


@pytest.mark.parametrize(("text", "world"), [("1x4", 3), ("2:4", 2), ("4x2", 4), ("4x2", 1)])
def test_rows_of_tiles_lose_equally_many(text: str, world: int) -> None:
    tensors, pattern = [*TENSORS[2:4], TENSORS[6]], Pattern.parse(text)
    scores = [normal(7)[place] for place in (2, 3, 6)]
    kept, ranks = all_kept(tensors), cut_randomly(tensors, world, seed=world)
    for sparsity in (0.25, 0.5):
        groups = make_groups(tensors, [sparsity] * 3, "row", pattern)
        results = run_threads(world, thin_tiles, ranks, scores, kept, groups, text)
        new = join(ranks, [bits for bits, _ in results])
        assert all(map(torch.equal, new, select_dense_tiles(tensors, scores, kept, groups, text)))
        most = update_bytes(groups, world) + row_bytes(groups, world)
        most += band_bytes([Tiling.of(tensor, pattern).band for tensor in tensors], world)
        assert all(sent <= most for _, sent in results)
        wrong = count_rows(*whole(tensors, new), groups, torch.ne, Comm())
        assert wrong == [0] * 3
        kept = new


def whole(tensors: Sequence[PrunableTensor], masks: Sequence[Tensor]) -> tuple[list[Shard], list[Tensor]]:
    """Masks as the shards of one rank."""
    shards = [Shard(tensor, 0, tensor.numel) for tensor in tensors]
    return shards, packed_parts(masks, shards)


def test_parts_of_a_mask_update_are_shared_equally_by_the_rows() -> None:
    [group] = make_groups([PrunableTensor("w", (5, 16))], [0.75], "row")
    parts = [part[0] for part in divided([group], [0], 2)]
    assert [(part.num_rows, part.num_pruned) for part in parts] == [(5, 40), (5, 60)]


def test_the_number_of_messages_does_not_depend_on_the_number_of_rows() -> None:
    for shape in ((40, 8), (4000, 8)):
        tensors = [PrunableTensor("w", shape)]
        groups = make_groups(tensors, [0.5], "row")
        ranks = cut_randomly(tensors, 3, seed=4)
        sent = run_threads(3, thin, ranks, [torch.randn(tensors[0].numel)], all_kept(tensors), groups)
        assert max(bytes_sent for _, bytes_sent, _ in sent) <= 2 * 8 + 16 + 7 * 5


@pytest.mark.parametrize("world", [1, 3])
def test_a_row_with_more_zeros_than_the_others_is_refused(world: int) -> None:
    kept, ranks = all_kept(), cut_randomly(TENSORS, world, seed=2)
    kept[1][16:21] = kept[1][40:45] = False

    def message(comm: Comm) -> str:
        with pytest.raises(UserError) as refused:
            thin(comm, ranks, normal(1), kept, groups_of(0.5))
        return str(refused.value)

    expected = (
        r"layer.1.weight: 2 of its 16 rows already have more pruned weights than the 4 of this mask update"
    )
    assert all(found.startswith(expected) for found in run_threads(world, message))


def test_a_nan_is_refused_with_its_tensor() -> None:
    scores, ranks = normal(1), cut_randomly(TENSORS, 1, seed=0)
    scores[2][5] = nan
    with pytest.raises(UserError, match=r"^layer.2.weight: 1 of its scores are NaN"):
        thin(Comm(), ranks, scores, all_kept(), groups_of(0.5))


@pytest.mark.parametrize(
    ("shape", "sparsity", "message"),
    [
        ((8,), 0.5, r"^pruning.scope: value row: w of shape \[8\] is not a matrix"),
        ((4, 8), 0.95, r"^pruning: a sparsity of 0.95 leaves none of the 32 weights of w"),
    ],
)
def test_a_tensor_without_rows_or_whose_rows_would_be_empty_is_refused(
    shape: tuple[int, ...], sparsity: float, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        update_groups([PrunableTensor("w", shape)], Pruning(sparsity=sparsity, scope="row"), 1.0)


def test_a_target_below_one_weight_a_row_is_refused() -> None:
    model = torch.nn.ModuleDict(
        {"layers": torch.nn.ModuleList([torch.nn.Linear(8, 4), torch.nn.Linear(8, 4)])}
    )
    pruning: dict[str, Any] = {"scope": "row", "only": ["*.weight"]}
    assert weights_to_prune(model, Pruning(sparsity=0.25, **pruning)).tensors
    with pytest.raises(
        UserError, match=r"^pruning.scope: value row: a sparsity of 0.05 prunes none of the 8 "
    ):
        weights_to_prune(model, Pruning(sparsity=0.05, **pruning))
    with pytest.raises(
        UserError, match=r"^pruning.scope: value row: a sparsity of 0.01 .* of layers.0.weight"
    ):
        weights_to_prune(model, Pruning(sparsity=0.25, sparsities={"layers.0.weight": 0.01}, **pruning))
    assert weights_to_prune(
        model, Pruning(sparsity=0.25, sparsities={"layers.0.weight": 0}, **pruning)
    ).tensors


def test_a_row_is_an_output_whatever_is_stored_first() -> None:
    with torch.device("meta"):
        model = GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=9, n_positions=8))
    pruning = Pruning(sparsity=0.5, scope="row", only=["*.c_proj.weight"])
    groups = update_groups(weights_to_prune(model, pruning).tensors, pruning, 1.0)
    assert [(group.num_rows, group.row) for group in groups] == [(8, 8), (8, 32)]


def test_a_matrix_of_which_the_input_is_not_known_is_refused() -> None:
    model = torch.nn.Module()
    model.mix = torch.nn.Parameter(torch.empty(8, 8))
    with pytest.raises(
        UserError,
        match=r"^pruning.scope: value row: mix is of a Module, and its input dimension is not known",
    ):
        weights_to_prune(model, Pruning(sparsity=0.5, scope="row", only=["mix"]))


def test_whole_rows_and_fixed_rows_are_one_or_the_other() -> None:
    values = {"name": "x", "budget": {"steps": 9, "batch": 1}}
    with pytest.raises(
        UserError, match=r"^pruning.pattern: value 'rows': prunes whole rows, and pruning.scope"
    ):
        check_recipe(values | {"pruning": {"sparsity": 0.5, "pattern": "rows", "scope": "row"}})


def test_audit_finds_a_row_with_other_zeros(tmp_path: Path) -> None:
    folder = save_sparse(tmp_path, bert(hidden_size=8, intermediate_size=8), scope="row")
    found = [finding.rule for finding in audit_folder(folder).findings if finding.tensor == QUERY]
    assert "6 weights of each row are pruned" in found


@pytest.mark.parametrize(("first", "last"), [(0, 20), (3, 17), (8, 8), (9, 16), (20, 20)])
def test_a_part_of_a_packed_mask_is_unpacked_alone(first: int, last: int) -> None:
    mask = torch.rand(20, generator=torch.Generator().manual_seed(1)) > 0.5
    [bits] = packed_parts([mask], [Shard(PrunableTensor("w", (20,)), 0, 20)])
    assert torch.equal(unpack_part(bits, first, last), mask[first:last])

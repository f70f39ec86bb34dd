"""Patterns hold in the matrix and are the same for every sharding; the oracle goes tile by tile."""

from collections.abc import Callable, Sequence
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model, GptOssConfig, GptOssModel, MixtralConfig, MixtralModel

from dsprune.checkpoint.audit import audit_folder
from dsprune.checkpoint.made import Made
from dsprune.checkpoint.model_card import CARD, write_card
from dsprune.errors import UserError
from dsprune.masks.bits import pack
from dsprune.masks.cut_bands import CutBands, band_bytes
from dsprune.masks.manifest import read_manifest
from dsprune.masks.mask_files import read_complete_masks, write_masks
from dsprune.masks.mask_set import MaskSet
from dsprune.methods.checks import check_pruning
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Pruning, dump_recipe, load_recipe
from dsprune.recipe.loading import check_recipe
from dsprune.recipe.pattern import Pattern
from dsprune.schedule.law import scaled_to
from dsprune.selection.complete import select_complete
from dsprune.selection.groups import Group, make_groups, update_groups
from dsprune.selection.patterned import count_broken, select_tiles
from dsprune.selection.scan import Scorer
from dsprune.selection.tiles import Tiling
from dsprune.selection.traffic import update_bytes
from dsprune.selection.weights import weights_to_prune
from dsprune.testing.methods import cut_randomly, join, packed_parts, scorers_of
from dsprune.testing.patterned import select_dense_tiles, tiles_of
from dsprune.testing.threads import run_threads
from tests.unit.sparse import QUERY, TIMETABLE, bert, save_sparse

PATTERNS = ["2:4", "1:4", "3:8", "1x4", "4x1", "2x2", "4x8", "rows"]
TENSORS = [
    PrunableTensor(f"layer.{place}.weight", shape)
    for place, shape in enumerate([(8, 16), (16, 8), (3, 4, 24), (12, 8, 1, 1)])
] + [
    PrunableTensor(f"transposed.{place}", shape, inputs_first=True)
    for place, shape in enumerate([(16, 8), (2, 24, 4)])
]


def normal(tensors: Sequence[PrunableTensor], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tensor.numel, generator=generator) for tensor in tensors]


def all_kept(tensors: Sequence[PrunableTensor]) -> list[Tensor]:
    return [torch.ones(tensor.numel, dtype=torch.bool) for tensor in tensors]


def run_select(
    comm: Comm,
    ranks: Sequence[Sequence[Shard]],
    scores: Sequence[Tensor],
    kept: Sequence[Tensor],
    groups: Sequence[Group],
    text: str,
    squared: bool = False,
) -> tuple[list[Tensor], list[int], int]:
    shards, pattern = ranks[comm.rank], Pattern.parse(text)
    bits = packed_parts(kept, shards)
    new = select_tiles(shards, scorers_of(scores, shards), bits, groups, comm, pattern, squared=squared)
    sent = comm.bytes_sent
    return new, count_broken(shards, new, pattern, comm), sent


SCOPED = [
    (text, ("global", "uniform", "erk")[(place + world) % 3], world)
    for place, text in enumerate(PATTERNS)
    for world in (1, 2, 3, 4)
]
"""Every pattern on every number of ranks, and with every scope."""


@pytest.mark.parametrize(("text", "scope", "world"), SCOPED)
def test_a_pattern_is_true_in_the_matrix_on_any_number_of_ranks(text: str, scope: str, world: int) -> None:
    pattern, squared, seed = Pattern.parse(text), scope == "uniform", 10 * world + len(scope)
    scores = normal(TENSORS, seed)
    if world % 2:  # many ties, among tiles and in them
        scores = [(score * 2).round() for score in scores]
    ranks, kept = cut_randomly(TENSORS, world, seed), all_kept(TENSORS)
    for progress in (0.4, 1.0):
        target = pattern.sparsity if pattern.kept else 0.75
        groups = make_groups(TENSORS, [progress * target] * len(TENSORS), scope, pattern)
        results = run_threads(world, run_select, ranks, scores, kept, groups, text, squared)
        new = join(ranks, [bits for bits, _, _ in results])
        expected = select_dense_tiles(TENSORS, scores, kept, groups, text, squared=squared)
        assert all(map(torch.equal, new, expected))
        assert not any((mask & ~old).any() for mask, old in zip(new, kept, strict=True))
        assert sum(int((~mask).sum()) for mask in new) == sum(group.num_pruned for group in groups)
        assert all(broken == [0] * len(TENSORS) for _, broken, _ in results)
        most = update_bytes(groups, world)
        most += band_bytes([Tiling.of(tensor, pattern).band for tensor in TENSORS], world)
        assert all(sent <= most for _, _, sent in results)
        kept = new
    if pattern.kept:  # every tile is pruned at the end
        for tensor, mask in zip(TENSORS, kept, strict=True):
            assert {int(mask[tile].sum()) for tile in tiles_of(tensor, pattern)} == {pattern.kept}


def complete(comm: Comm, ranks: Sequence[Sequence[Shard]], tiling: Tiling) -> tuple[Tensor, Tensor, int]:
    """The values that complete the last band of a rank, the results that it receives, and the bytes that it sends."""
    cut, before = CutBands(ranks[comm.rank], [tiling.band], comm), comm.bytes_sent
    [shard] = ranks[comm.rank]
    [tail] = cut.collect([torch.arange(shard.start, shard.start + cut.heads[0], dtype=torch.int32)])
    [head] = cut.give_back([(tail * 2).byte()])
    return tail, head, comm.bytes_sent - before


def test_a_band_is_completed_by_the_ranks_that_hold_its_rest() -> None:
    tensor = PrunableTensor("w", (8, 8))
    ranks = [[Shard(tensor, 5, 2)], [Shard(tensor, 0, 5)], [Shard(tensor, 9, 0)], [Shard(tensor, 7, 57)]]
    tiling = Tiling.of(tensor, Pattern.parse("1x8"))
    found = run_threads(4, complete, ranks, tiling)
    assert [(tail.tolist(), head.tolist(), sent) for tail, head, sent in found] == [
        ([], [10, 12], 2 * 4),
        ([5, 6, 7], [], 3),
        ([], [], 0),
        ([], [14], 4),
    ]
    assert max(sent for _, _, sent in found) < band_bytes([tiling.band], 4) == 16 + 7 * 5


@pytest.mark.parametrize("world", [1, 3])
def test_what_is_2_of_4_fits_sparse_semi_structured_kernels(world: int) -> None:
    """The rule of `torch.sparse.to_sparse_semi_structured`: of every four inputs of an output, at most two."""
    tensors = [PrunableTensor("w", (32, 64))]
    groups = make_groups(tensors, [0.5], "global", Pattern.parse("2:4"))
    ranks = cut_randomly(tensors, world, seed=5)
    results = run_threads(world, run_select, ranks, normal(tensors, 1), all_kept(tensors), groups, "2:4")
    [mask] = join(ranks, [bits for bits, _, _ in results])
    weight = normal(tensors, 1)[0].masked_fill(~mask, 0.0).view(32, 64)
    assert (weight.view(-1, 4) != 0).sum(1).max() == 2
    assert (weight == 0).sum() == weight.numel() // 2


def test_a_broken_tile_is_counted_on_one_rank_only() -> None:
    tensors = [PrunableTensor("w", (4, 8)), PrunableTensor("v", (4, 8))]
    kept = all_kept(tensors)
    kept[0][:3] = False  # one of four is left
    kept[1][[1, 2, 8, 9]] = False  # two tiles as they should be, two that are whole
    for world in (1, 2, 3, 4):
        ranks = cut_randomly(tensors, world, seed=world)
        counts = run_threads(
            world,
            lambda comm, ranks=ranks: count_broken(
                ranks[comm.rank], packed_parts(kept, ranks[comm.rank]), Pattern.parse("2:4"), comm
            ),
        )
        assert counts == [[1, 0]] * world


def test_a_nan_in_a_tile_is_refused_also_where_it_would_stay() -> None:
    scores = torch.arange(16.0)
    scores[7] = nan
    shards = [Shard(PrunableTensor("w", (4, 4)), 0, 16)]
    groups = make_groups([shards[0].tensor], [0.5], "global", Pattern.parse("2:4"))
    bits = [pack(torch.ones(16, dtype=torch.bool))]
    with pytest.raises(UserError, match=r"^w: 1 of its scores are NaN"):
        select_tiles(shards, [Scorer(scores.__getitem__)], bits, groups, Comm(), Pattern.parse("2:4"))


def test_complete_weights_are_selected_by_magnitude() -> None:
    tensors, weights = TENSORS[:2], normal(TENSORS[:2], 3)
    groups = make_groups(tensors, [0.5] * 2, "global", Pattern.parse("2x2"))
    masks = select_complete(tensors, weights, groups, pattern=Pattern.parse("2x2"))
    scores = [weight.abs() for weight in weights]
    expected = select_dense_tiles(tensors, scores, all_kept(tensors), groups, "2x2")
    assert all(torch.equal(mask.view(-1), wanted) for mask, wanted in zip(masks, expected, strict=True))


@pytest.mark.parametrize(
    ("shape", "text", "message"),
    [
        ((8, 6), "2:4", r"^pruning.pattern: value 2:4: w of shape \[8, 6\]: its 6 columns are no multiple of 4"),
        ((6, 8), "4x1", r"^pruning.pattern: value 4x1: w of shape \[6, 8\]: its 6 rows are no multiple of 4"),
        ((2, 3, 8), "2x2", r"^pruning.pattern: value 2x2: w of shape \[2, 3, 8\]: its 3 rows"),
        ((8,), "rows", r"^pruning.pattern: value rows: w of shape \[8\]: is not a matrix: .*pruning.exclude"),
    ],
)  # fmt: skip
def test_a_tensor_that_the_pattern_does_not_fit_is_refused(
    shape: tuple[int, ...], text: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_groups([PrunableTensor("w", shape)], [0.5], "global", Pattern.parse(text))


def test_rows_of_different_lengths_are_ranked_apart() -> None:
    tensors = [PrunableTensor("a", (8, 4)), PrunableTensor("b", (8, 6)), PrunableTensor("c", (4, 4))]
    groups = make_groups(tensors, [0.5] * 3, "global", Pattern.parse("rows"))
    assert [(group.tensors, group.num_pruned) for group in groups] == [((0, 2), 24), ((1,), 24)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pattern": "4:2"}, r"^pruning.pattern: value '4:2': N:M keeps N of M"),
        ({"pattern": "block"}, r"^pruning.pattern: value 'block': must be unstructured, rows, N:M"),
        ({"pattern": "2x5000"}, r"^pruning.pattern: value '2x5000': must have numbers of at most 4096"),
        ({"pattern": "2:4"}, r"^pruning.pattern: value '2:4': prunes 0.5 of the weights, and .* is 0.9: set "),
        (
            {"pattern": "2:4", "sparsity": 0.5, "sparsities": {"*.up.*": 0.25}},
            r"^pruning.sparsities: value .*'2:4' prunes all tensors alike, and '\*.up.\*' has a target of 0.25",
        ),
    ],
)  # fmt: skip
def test_a_pattern_and_a_target_that_it_cannot_give_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    values = {"name": "x", "budget": {"steps": 9, "batch": 1}, "pruning": {"sparsity": 0.9, **settings}}
    with pytest.raises(UserError, match=message):
        check_recipe(values)


def test_a_rounded_target_is_the_exact_one_of_the_pattern() -> None:
    values = {"name": "x", "budget": {"steps": 9, "batch": 1}}
    recipe = check_recipe(values | {"pruning": {"sparsity": 0.667, "pattern": "1:3"}})
    assert recipe.pruning.sparsity == 2 / 3
    [group] = update_groups([PrunableTensor("w", (1000, 999))], recipe.pruning, 1.0)
    assert group.num_pruned == 1000 * 999 // 3 * 2
    with pytest.raises(UserError, match=r"^pruning.pattern: value '1:3': .* is 0.9: set that to 0.6667"):
        scaled_to(recipe, 0.9)


def test_a_pattern_in_yaml_is_quoted(tmp_path: Path) -> None:
    text = "budget: {steps: 9, batch: 1}\npruning: {sparsity: 0.5, pattern: VALUE}\n"
    path = tmp_path / "recipe.yaml"
    path.write_text(text.replace("VALUE", "2:4"))
    with pytest.raises(UserError, match=r"found '2:4', which YAML readers .* quote it"):
        load_recipe(str(path))
    path.write_text(text.replace("VALUE", "'2:4'"))
    recipe = load_recipe(str(path))
    assert recipe.pruning.pattern == "2:4"
    assert load_recipe(str(path), ["pruning.pattern=1:2"]).pruning == Pruning(sparsity=0.5, pattern="1:2")
    path.write_text(dump_recipe(recipe))
    assert load_recipe(str(path)) == recipe


def test_methods_that_regrow_refuse_patterns() -> None:
    for method in ("rigl", "set"):
        pruning = Pruning(sparsity=0.5, pattern="2:4", method=method)
        with pytest.raises(UserError, match=rf"^pruning.pattern: value 2:4: '{method}' lets single weights"):
            check_pruning(pruning)


EXPERTS = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "gpt2": lambda: GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=9, n_positions=8)),
    "mixtral": lambda: MixtralModel(MixtralConfig(**EXPERTS, num_key_value_heads=1, num_local_experts=4)),
    "gpt-oss": lambda: GptOssModel(
        GptOssConfig(**EXPERTS, head_dim=4, num_key_value_heads=1, num_local_experts=4)
    ),
}


@pytest.mark.parametrize(
    ("name", "weight", "inputs", "inputs_first"),
    [
        ("gpt2", "h.0.mlp.c_fc.weight", 8, True),
        ("gpt2", "h.0.mlp.c_proj.weight", 32, True),
        ("mixtral", "layers.0.mlp.experts.down_proj", 16, False),
        ("mixtral", "layers.0.self_attn.q_proj.weight", 8, False),
        ("gpt-oss", "layers.0.mlp.experts.down_proj", 16, True),
        ("gpt-oss", "layers.0.self_attn.q_proj.weight", 8, False),
    ],
)
def test_tiles_lie_along_the_inputs_whatever_is_stored_first(
    name: str, weight: str, inputs: int, inputs_first: bool
) -> None:
    with torch.device("meta"):
        tensors = weights_to_prune(MODELS[name](), Pruning(sparsity=0.5, pattern="2:4")).tensors
    [tensor] = [tensor for tensor in tensors if tensor.name == weight]
    assert tensor.inputs_first == inputs_first
    assert Tiling.of(tensor, Pattern.parse("rows")).size == inputs


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.empty(8, 8))
        self.inner = nn.Linear(8, 8)


def test_weights_of_which_the_input_is_not_known_are_refused() -> None:
    model = nn.Module()
    model.layers = nn.ModuleList([Mixing(), Mixing()])
    assert len(weights_to_prune(model, Pruning(sparsity=0.5)).tensors) == 4
    with pytest.raises(UserError, match=r"^pruning.pattern: value 2:4: layers.0.mix is of a Mixing"):
        weights_to_prune(model, Pruning(sparsity=0.5, pattern="2:4"))


def test_saved_masks_say_which_dimension_is_the_input(tmp_path: Path) -> None:
    tensor, pattern = PrunableTensor("w", (4, 6), inputs_first=True), Pattern.parse("2:4")
    groups = make_groups([tensor], [0.5], "global", pattern)
    [mask] = select_complete([tensor], normal([tensor], 1), groups, pattern=pattern)
    masks = MaskSet([Shard(tensor, 0, tensor.numel)])
    masks.replace([pack(mask.view(-1))])
    pruning = Pruning(sparsity=0.5, pattern="2:4")
    write_masks(tmp_path, masks, Comm(), step=10, timetable=TIMETABLE, pruning=pruning)
    read = read_complete_masks(tmp_path, read_manifest(tmp_path))
    assert [shard.tensor.inputs_first for shard in read.shards] == [True]
    assert count_broken(read.shards, read.bits, pattern, Comm()) == [0]


def test_audit_finds_a_broken_tile_and_the_card_names_the_pattern(tmp_path: Path) -> None:
    model = bert(hidden_size=8, intermediate_size=8)
    folder = save_sparse(tmp_path, model, pattern="1x2")
    found = {finding.tensor: finding.count for finding in audit_folder(folder).findings}
    assert found[QUERY] > 0
    write_card(folder, Made())
    assert "Pruned in the pattern 1x2." in (folder / CARD).read_text()

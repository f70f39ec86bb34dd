"""The Optimal Brain Surgeon in blocks: exact on a quadratic, and the same for every sharding."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dsprune.kernels.block_products import matrices, products
from dsprune.masks.accumulator_set import AccumulatorSet
from dsprune.masks.cut_bands import CutBands
from dsprune.methods.magnitude import Magnitude
from dsprune.methods.method import RECOMPUTATIONS, CompensatingMethod, Method, ShardContext
from dsprune.methods.obert import BLOCK, OBert
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection.compensate import block_bytes, divided
from dsprune.selection.groups import Group
from dsprune.testing.methods import cut_randomly, part_of
from dsprune.testing.threads import run_threads

NUM_STEPS = 60


def context(numel: int, seed: int = 0) -> tuple[ShardContext, Tensor]:
    """A tensor after some steps, all kept, and the gradients of these steps."""
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(NUM_STEPS, numel, generator=generator) / 10
    gradients[:, 1:] += gradients[:, :-1] / 2  # neighbours are correlated
    fisher = sum(products(gradient, BLOCK) for gradient in gradients)
    weight, kept = torch.randn(numel, generator=generator), torch.ones(numel, dtype=torch.bool)
    tensor = PrunableTensor("w", (numel,))
    made = ShardContext(
        tensor, range(numel), weight, accumulators={"fisher": fisher}, kept=kept, num_steps=NUM_STEPS
    )
    return made, gradients.double()


def hessian(gradients: Tensor, damping: float = 1e-7) -> Tensor:
    return gradients.T @ gradients / NUM_STEPS + damping * torch.eye(gradients.shape[1])


def test_rows_of_products_are_the_symmetric_matrix() -> None:
    for numel in (50, 130, 7):
        values = torch.randn(numel, generator=torch.Generator().manual_seed(numel))
        found = matrices(products(values, BLOCK), BLOCK)
        for block, part in zip(found, values.split(BLOCK), strict=True):
            assert torch.equal(block[: len(part), : len(part)], part.outer(part))
            assert not block[len(part) :].any()


def test_one_weight_is_removed_as_the_surgeon_does_it() -> None:
    """On a quadratic w^T H w / 2 from its minimum: the loss of each weight, and the update of all others."""
    whole, gradients = context(BLOCK)
    weight, inverse = whole.weight.double(), torch.linalg.inv(hessian(gradients))
    expected = weight.square() / (2 * inverse.diagonal())
    torch.testing.assert_close(OBert().scores(whole).double().square(), expected, rtol=1e-3, atol=0.0)
    place = int(expected.argmin())
    kept = whole.kept.clone()
    kept[place] = False
    moved = OBert().compensate(replace(whole, kept=kept)).double()
    torch.testing.assert_close(
        moved, weight - weight[place] / inverse[place, place] * inverse[place], rtol=1e-3, atol=1e-4
    )
    assert moved[place] == 0.0
    change = moved - weight
    torch.testing.assert_close(change @ hessian(gradients) @ change / 2, expected[place], rtol=1e-3, atol=0.0)


def test_what_is_removed_together_is_made_up_for_together() -> None:
    """No other update of the kept weights has a lower loss, and a block without removed weights does not change."""
    whole, gradients = context(2 * BLOCK)
    kept = whole.kept.clone()
    kept[:BLOCK] = torch.arange(BLOCK) % 3 > 0
    moved = OBert().compensate(replace(whole, kept=kept)).double()
    assert torch.equal(moved[BLOCK:].float(), whole.weight[BLOCK:])
    change = (moved - whole.weight.double())[:BLOCK]
    slope = hessian(gradients[:, :BLOCK]) @ change
    assert slope[kept[:BLOCK]].abs().max() < 1e-4 * slope.abs().max()


def test_sums_that_rounding_has_made_indefinite_move_no_weight_far() -> None:
    """The same direction at each step: the sums have one eigenvalue, and thousands of rounding errors around it."""
    generator, steps, numel = torch.Generator().manual_seed(0), 2048, 8 * BLOCK
    direction, weight = torch.randn(2, numel, generator=generator)
    step, fisher = products(0.7 * direction, BLOCK), torch.zeros(numel, BLOCK // 2 + 1)
    for _ in range(steps):
        fisher += step
    assert torch.linalg.eigvalsh(matrices(fisher, BLOCK).double() / steps)[:, 0].min() < -1e-6
    kept = torch.rand(numel, generator=generator) > 0.5
    context = ShardContext(
        PrunableTensor("w", (numel,)), range(numel), weight, accumulators={"fisher": fisher}, num_steps=steps
    )
    moved = OBert().compensate(replace(context, kept=kept))
    assert moved.abs().max() < 10 * weight.abs().max()
    exact = (0.7 * direction).double().view(-1, BLOCK)

    def loss(new: Tensor) -> Tensor:
        return ((new - weight).double().view(-1, BLOCK) * exact).sum(1).square() / 2

    assert (loss(moved) < 1e-3 * loss(weight * kept)).all()
    assert OBert().scores(replace(context, kept=torch.ones_like(kept))).isfinite().all()


def test_damping_is_on_the_diagonal() -> None:
    whole, gradients = context(BLOCK)
    inverse = torch.linalg.inv(hessian(gradients, damping=0.5))
    expected = whole.weight.double().square() / (2 * inverse.diagonal())
    found = OBert().scores(replace(whole, damping=0.5)).double().square()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0.0)


def test_weights_without_gradients_are_ranked_by_size() -> None:
    whole, _ = context(BLOCK)
    still = replace(whole, accumulators={"fisher": torch.zeros_like(whole.accumulators["fisher"])})
    scores = OBert().scores(still).abs()
    assert torch.equal(scores.argsort(), whole.weight.abs().argsort())
    torch.testing.assert_close(scores, whole.weight.abs() * (1e-7 / 2) ** 0.5)


def test_a_block_has_the_same_result_wherever_it_is_in_a_batch() -> None:
    whole, _ = context(40 * BLOCK)
    kept = torch.arange(40 * BLOCK) % 4 > 0
    whole = replace(whole, kept=kept)
    for compute in (OBert().scores, OBert().compensate):
        expected = compute(whole)
        for size in (1, 7, 13):
            parts = [slice(at, at + size * BLOCK) for at in range(0, 40 * BLOCK, size * BLOCK)]
            assert torch.equal(torch.cat([compute(whole[part]) for part in parts]), expected)


def layer_loss(method: Method, sparsity: float, parts: int = 1) -> float:
    """Loss of a trained layer after one-shot pruning."""
    generator = torch.Generator().manual_seed(3)
    mix = torch.randn(20, 20, generator=generator)
    inputs = torch.randn(400, 20, generator=generator) @ mix  # correlated, like those of a layer
    layer = nn.Linear(20, 10, bias=False)
    layer.weight.data = torch.randn(10, 20, generator=generator)
    targets = layer(inputs).detach() + torch.randn(400, 10, generator=generator)
    sums = torch.zeros(200, BLOCK // 2 + 1)
    for rows, wanted in zip(inputs.split(1), targets.split(1), strict=True):
        [gradient] = torch.autograd.grad((layer(rows) - wanted).square().mean(), layer.weight)
        sums += products(gradient.flatten(), BLOCK)
    weight = layer.weight.detach().flatten()
    whole = ShardContext(PrunableTensor("w", (10, 20)), range(200), weight, accumulators={"fisher": sums},
                         kept=torch.ones(200, dtype=torch.bool), num_steps=400)  # fmt: skip
    group, kept = Group("w", (0,), 200, round(sparsity * 200)), torch.ones(200, dtype=torch.bool)
    for [part] in divided([group], [0], parts):
        scores = method.scores(replace(whole, kept=kept)).abs().masked_fill(~kept, -1.0)
        kept = kept.index_fill(0, scores.argsort()[: part.num_pruned], False)
    pruned = weight * kept
    if isinstance(method, CompensatingMethod):
        pruned = method.compensate(replace(whole, kept=kept))
    layer.weight.data = pruned.view(10, 20)
    return float((layer(inputs) - targets).square().mean().detach())


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.8, 0.9])
def test_the_loss_of_a_layer_is_below_that_of_magnitude(sparsity: float) -> None:
    """In parts, each part sees the result of the earlier ones, so similar weights are not all removed together."""
    assert layer_loss(OBert(), sparsity, RECOMPUTATIONS) < 0.9 * layer_loss(Magnitude(), sparsity)
    assert layer_loss(OBert(), sparsity, RECOMPUTATIONS) <= layer_loss(OBert(), sparsity)


def sums(comm: Comm, ranks: list[list[Shard]], gradients: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The products of a rank after some steps, and those of its blocks with one more staged step."""
    shards = ranks[comm.rank]
    cut_blocks = CutBands(shards, [BLOCK] * len(shards), comm)
    kept = AccumulatorSet(shards, OBert.accumulators, cut_blocks=cut_blocks)
    for step, gradient in enumerate(gradients):
        for index, shard in enumerate(shards):
            for part in kept.parts(index):
                kept.stage(index, part, {"fisher": part_of(gradient, shard)[part]})
        kept.finish_staging()
        if step < len(gradients) - 1:
            kept.settle(applied=step != 1)
    blocks = [
        torch.cat([torch.empty(0, 26), *(row["fisher"] for row in rows)])
        for rows in kept.newest_of_blocks(70)
    ]
    return [row["fisher"] for row in kept.values], cut_blocks.share(blocks)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_the_products_of_cut_blocks_are_those_of_whole_ones(world: int) -> None:
    """The second of four steps is skipped, and the last one is staged."""
    tensors = [PrunableTensor("w", (13, 10)), PrunableTensor("v", (20,))]
    gradients = torch.randn(4, 130, generator=torch.Generator().manual_seed(world))
    ranks = cut_randomly(tensors, world, seed=world)
    for shards, (kept, newest) in zip(ranks, run_threads(world, sums, ranks, gradients), strict=True):
        for place, shard in enumerate(shards):
            rows = [products(gradient[: shard.tensor.numel], BLOCK) for gradient in gradients]
            assert torch.equal(kept[place], part_of(rows[0] + rows[2], shard)), shard
            assert torch.equal(newest[place], part_of(rows[0] + rows[2] + rows[3], shard)), shard


def test_bytes_of_cut_blocks() -> None:
    step, update = 7 * 49 * 108, 7 * 49 * 113
    assert block_bytes(OBert, 7) == (step, 2 * update + 7 * 8)
    assert block_bytes(OBert, 7, parts=4) == (step, 5 * update + 7 * 8)


def test_parts_of_a_mask_update_begin_at_the_present_zeros_and_end_at_the_target() -> None:
    group = Group("w", (0, 1), 1000, 900)
    found = [part[0].num_pruned for part in divided([group], [300, 200], 4)]
    assert found == [666, 776, 850, 900]
    assert [
        part[0].num_pruned for part in divided([replace(group, num_weights=0, num_pruned=0)], [0, 0], 1)
    ] == [0]

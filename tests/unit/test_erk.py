"""The Erdos-Renyi-kernel distribution: exact sums, the published formula, and no tensor becomes denser."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsprune.model.shard import PrunableTensor
from dsprune.recipe import Pruning
from dsprune.selection.erk import divide_kept, shape_weight
from dsprune.selection.groups import make_groups, update_groups

SHAPES = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple), min_size=1, max_size=8)


@given(SHAPES, st.floats(0, 1))
def test_the_sum_is_exact_and_one_weight_more_makes_no_tensor_sparser(
    shapes: list[tuple[int, ...]], density: float
) -> None:
    sizes = [prod(shape) for shape in shapes]
    num_kept = round(density * sum(sizes))
    kept = divide_kept(shapes, num_kept)
    assert sum(kept) == num_kept
    assert all(0 <= count <= size for count, size in zip(kept, sizes, strict=True))
    if num_kept < sum(sizes):
        more = divide_kept(shapes, num_kept + 1)
        assert sorted(after - before for after, before in zip(more, kept, strict=True))[-1] == 1
        assert min(after - before for after, before in zip(more, kept, strict=True)) == 0 or len(shapes) == 1


def published(shapes: list[tuple[int, int]], density: float) -> list[float]:
    """Densities by the loop of RigL's authors: matrices with a density above 1 are dense."""
    dense: set[int] = set()
    while True:
        rest = [place for place in range(len(shapes)) if place not in dense]
        budget = density * sum(map(prod, shapes)) - sum(prod(shapes[place]) for place in dense)
        scale = budget / sum(sum(shapes[place]) for place in rest)
        found = {place: scale * sum(shapes[place]) / prod(shapes[place]) for place in rest}
        if all(value <= 1 for value in found.values()):
            return [found.get(place, 1.0) for place in range(len(shapes))]
        dense.add(max(found, key=found.__getitem__))


@pytest.mark.parametrize("density", [0.02, 0.1, 0.5, 0.9])
def test_densities_are_the_published_ones(density: float) -> None:
    shapes = [(384, 384), (384, 1536), (1536, 384), (384, 2), (64, 64)]
    num_kept = round(density * sum(map(prod, shapes)))
    for shape, kept, expected in zip(
        shapes, divide_kept(shapes, num_kept), published(shapes, density), strict=True
    ):
        assert abs(kept - expected * prod(shape)) <= 1


def test_a_stack_of_experts_weighs_as_its_matrices_and_a_kernel_of_width_one_as_a_matrix() -> None:
    assert shape_weight((8, 10, 40)) == 8 * shape_weight((10, 40))
    assert shape_weight((10, 40, 1)) == shape_weight((10, 40))


def test_tensors_with_a_target_of_their_own_are_divided_apart() -> None:
    shapes = [(10, 10), (10, 40), (20, 20)]
    tensors = [PrunableTensor(str(n), shape) for n, shape in enumerate(shapes)]
    groups = make_groups(tensors, [0.8, 0.8, 0.5], "erk")
    assert [group.tensors for group in groups] == [(0,), (1,), (2,)]
    assert groups[0].num_pruned + groups[1].num_pruned == 400
    assert groups[0].num_pruned / 100 < groups[1].num_pruned / 400
    assert groups[2].num_pruned == 200


def test_the_zeros_of_each_tensor_grow_with_the_sparsity() -> None:
    tensors = [PrunableTensor(str(n), shape) for n, shape in enumerate([(7, 9), (3, 50), (20, 20)])]
    pruning, before = Pruning(sparsity=0.95, scope="erk"), [0, 0, 0]
    for step in range(1, 200):
        zeros = [group.num_pruned for group in update_groups(tensors, pruning, step / 200)]
        assert all(now >= then for now, then in zip(zeros, before, strict=True)), step
        before = zeros

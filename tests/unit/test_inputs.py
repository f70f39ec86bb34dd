"""The counted inputs of matrices, and the matrices whose inputs can be observed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import BertConfig, BertModel, MixtralConfig, MixtralModel
from transformers.pytorch_utils import Conv1D

from dsprune.errors import UserError
from dsprune.masks.accumulator_files import declared_dtypes, read_accumulators, write_accumulators
from dsprune.masks.accumulator_set import AccumulatorSet
from dsprune.masks.input_sums import InputSums, input_bytes
from dsprune.masks.manifest import MaskManifest
from dsprune.model.inputs import InputHooks, is_seen
from dsprune.model.shard import PrunableTensor
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Pruning
from dsprune.selection.weights import weights_to_prune
from dsprune.testing.compiler import compiler
from tests.unit.sparse import TIMETABLE


class Layers(nn.Module):
    """Three kinds of matrices with an input of 4 numbers.

    The first is recomputed in the backward pass, and the second gets the positions of all texts as one list.
    """

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.transposed = nn.Linear(4, 4), Conv1D(4, 4)
        self.convolution = nn.Conv1d(4, 4, 1)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        for_all = x.flatten(end_dim=-3) if x.dim() > 3 else x
        again = checkpoint(self.linear, for_all, use_reentrant=False)
        return (
            again
            + self.transposed(for_all.flatten(end_dim=-2)).view_as(again)
            + self.convolution(for_all.mT).mT
        )


def hooked(layers: Layers, model: nn.Module | None = None) -> InputHooks:
    weights = [layers.linear.weight, layers.transposed.weight, layers.convolution.weight]
    shapes = [PrunableTensor(str(place), tuple(weight.shape)) for place, weight in enumerate(weights)]
    return InputHooks(layers if model is None else model, shapes, weights)


def test_what_passes_in_training_is_counted_once() -> None:
    model = Layers()
    hooks, generator = hooked(model), torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 5, 3, 4, generator=generator)
    model(first)
    assert not hooks.take().any(), "it does not count yet"
    hooks.begin_step(is_counting=True)
    model.eval()(first)
    model.train().linear(first)
    with torch.no_grad():
        model(first)
    assert not hooks.take().any(), "an evaluation, a part of the model alone, and a pass without gradients"
    model(first)
    hooks.begin_step(is_counting=True)
    assert not hooks.take().any(), "a pass without a step"
    for x in (first, second):
        model(x).sum().backward()
    expected = torch.cat([first, second]).double().square().sum((0, 1)).repeat(3)
    torch.testing.assert_close(hooks.take(), expected, rtol=1e-6, atol=0)
    assert not hooks.take().any()


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_compiled_model_counts_the_same(is_wrapped: bool) -> None:
    layers, generator = Layers(), torch.Generator().manual_seed(0)
    x, mask = torch.randn(4, 3, 4, generator=generator), torch.tensor([[1, 1, 0]] * 4)
    expected = x[mask.bool()].double().square().sum(0).repeat(3)
    with compiler():
        model = torch.compile(layers, backend="aot_eager") if is_wrapped else layers
        hooks = hooked(layers, model)
        if not is_wrapped:
            layers.compile(backend="aot_eager")
        for is_counting in (False, True, False, True):
            hooks.begin_step(is_counting=is_counting)
            model(x, mask).sum().backward()
            model.eval()(x)
            with torch.no_grad():
                model.train()(x)
            torch.testing.assert_close(hooks.take(), is_counting * expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("choices", [1, 2])
def test_padding_does_not_count(choices: int) -> None:
    model, generator = Layers(), torch.Generator().manual_seed(0)
    hooks, mask = hooked(model), torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 0]])
    hooks.begin_step(is_counting=True)
    x = torch.randn(4, 3, 4, generator=generator)
    expected = x[mask.bool()].double().square().sum(0).repeat(3)
    if choices > 1:
        x, mask = x.view(2, 2, 3, 4), mask.view(2, 2, 3)
    for arguments, named in (((x,), {"attention_mask": mask}), ((x, mask), {})):
        model(*arguments, **named)
        torch.testing.assert_close(hooks.take(), expected, rtol=1e-6, atol=0)


def test_a_weight_finds_its_input_in_either_order() -> None:
    positions = torch.arange(24)
    for shape, inputs_first, expected in (
        ((4, 6), False, [p % 6 for p in range(24)]),
        ((4, 6), True, [p // 6 for p in range(24)]),
        ((4, 6, 1), False, [p % 6 for p in range(24)]),
        ((2, 4, 3), True, [p // 3 % 4 for p in range(24)]),
    ):
        tensor = PrunableTensor("w", shape, inputs_first=inputs_first)
        assert tensor.inputs_at(positions).tolist() == expected
        assert tensor.num_inputs == max(expected) + 1


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mixtral": lambda: MixtralModel(
        MixtralConfig(
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    ),
    "bert": lambda: BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    ),
    "torch": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 2),
}


@pytest.mark.parametrize(
    ("name", "include", "exclude", "weight", "kind"),
    [
        ("mixtral", (), (), "layers.0.mlp.experts.gate_up_proj", "MixtralExperts"),
        ("bert", ("embeddings.word_embeddings.weight",), (), "embeddings.word_embeddings.weight", "Embedding"),
        ("bert", ("*.query.bias",), (), "encoder.layer.0.attention.self.query.bias", "Linear"),
        ("torch", (), (), "layers.0.self_attn.in_proj_weight", "MultiheadAttention"),
        ("torch", (), ("*in_proj*",), "layers.0.self_attn.out_proj.weight", "NonDynamicallyQuantizableLinear"),
    ],
)  # fmt: skip
def test_matrices_of_which_the_input_is_not_seen_are_refused(
    name: str, include: tuple[str, ...], exclude: tuple[str, ...], weight: str, kind: str
) -> None:
    with torch.device("meta"):
        model = MODELS[name]()
    pruning = Pruning(sparsity=0.5, method="wanda", include=include, exclude=exclude)
    with pytest.raises(UserError) as error:
        weights_to_prune(model, pruning)
    assert str(error.value).startswith(f"pruning.method: value wanda: {weight} is of a {kind}, ")
    assert "pruning.exclude" in str(error.value)


@pytest.mark.parametrize(("groups", "expected"), [(1, True), (2, False)])
def test_each_group_of_a_matrix_has_an_input_of_its_own(groups: int, expected: bool) -> None:
    # Not in the oldest transformers that dsprune supports.
    modeling = pytest.importorskip("transformers.models.deepseek_v4.modeling_deepseek_v4")
    layer = modeling.DeepseekV4GroupedLinear(4, 6, groups)
    assert is_seen(layer, layer.weight) == expected


TENSORS = [
    PrunableTensor("a", (3, 2)),
    PrunableTensor("b", (3, 3), inputs_first=True),
    PrunableTensor("c", (1, 2)),
]


def test_a_step_that_is_skipped_adds_nothing_and_what_had_no_input_is_named() -> None:
    sums = InputSums(TENSORS)
    sums.stage(torch.full((7,), 4.0, dtype=torch.float64))
    sums.settle(applied=False)
    with pytest.raises(
        UserError, match=r"^pruning.method: value wanda: no input was seen of a, b, c in the "
    ):
        sums.norms("wanda")
    added = torch.tensor([9.0, 0, 0, 0, 1, 0, 0], dtype=torch.float64)
    sums.stage(added)
    sums.settle(applied=True)
    sums.stage(added)
    with pytest.raises(UserError, match=r"no input was seen of c in the steps that count"):
        sums.norms("wanda")
    sums.stage(added + 1)
    assert [norms.square().round().tolist() for norms in sums.norms("wanda")] == [[19, 1], [1, 1, 3], [1, 1]]
    sums.settle(applied=True)
    sums.begin_interval()
    assert not any(values.any() for values in sums.values)


def test_sums_are_saved_once_and_read_by_every_rank(tmp_path: Path) -> None:
    kept = AccumulatorSet((), (), inputs=InputSums(TENSORS))
    kept.inputs.stage(torch.arange(7, dtype=torch.float64))
    kept.settle(applied=True)
    entry = write_accumulators(tmp_path, kept, Comm())
    assert entry is not None
    manifest = MaskManifest(
        step=1, timetable=TIMETABLE, scope="row", digest=0, tensors={}, files=(),
        accumulators=declared_dtypes(kept), accumulator_files=(entry,),
    )  # fmt: skip
    read = AccumulatorSet((), (), inputs=InputSums(TENSORS))
    read_accumulators(tmp_path, manifest, read)
    assert torch.cat(read.inputs.values).tolist() == list(range(7))
    assert input_bytes(TENSORS) == 8 * 7
    with pytest.raises(
        UserError, match=r"holds inputs \(float64, of matrices\), and pruning.method keeps no accum"
    ):
        read_accumulators(tmp_path, manifest, AccumulatorSet((), ()))

"""Scores depend only on the weight and its place, not on the sharding."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml

from dsprune.errors import UserError
from dsprune.methods.checks import check_pruning
from dsprune.methods.method import Accumulator, Method, ShardContext, find_method
from dsprune.model.shard import PrunableTensor
from dsprune.recipe import Pruning
from dsprune.registry import METHODS
from dsprune.selection.groups import make_groups, update_groups
from dsprune.testing.methods import check_parts, check_selection, check_shards
from dsprune.utils.randomness import mix64
from tests.scripts import SCRIPTS, load

TENSOR = PrunableTensor("encoder.weight", (50, 20))


def context(seed: int = 0, name: str = TENSOR.name, step: int = 0) -> ShardContext:
    weight = torch.randn(1000, generator=torch.Generator().manual_seed(7))
    tensor = PrunableTensor(name, TENSOR.shape)
    return ShardContext(tensor, range(1000), weight, weight * 2, {"exp_avg": weight * 3}, seed, step)


def test_a_part_of_a_context_is_cut_alike_everywhere() -> None:
    whole = context()
    part = whole[10:100:3][5:]
    assert list(part.positions) == list(range(25, 100, 3))
    assert torch.equal(part.weight, whole.weight[25:100:3])
    assert torch.equal(part.gradient, part.weight * 2)
    assert torch.equal(part.state["exp_avg"], part.weight * 3)


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize(
    "check", [check_parts, check_shards, check_selection], ids=lambda check: check.__name__
)
def test_a_method_keeps_what_all_must(name: str, check: Callable[[Method], None]) -> None:
    check(METHODS.get(name)())


def test_magnitude_is_the_absolute_value() -> None:
    method = METHODS.get("magnitude")()
    assert method.absolute
    assert torch.equal(method.scores(context()), context().weight)


def test_fisher_is_the_weight_times_the_root_of_the_second_moment() -> None:
    method, whole = METHODS.get("fisher")(), context()
    assert method.absolute
    assert method.needs == ("exp_avg_sq",)
    moment = torch.rand(1000, generator=torch.Generator().manual_seed(1)) * 1e-30
    scores = method.scores(replace(whole, state={"exp_avg_sq": moment}))
    expected = whole.weight.double().square() * moment.double()
    assert torch.equal(scores.abs().argsort(stable=True), expected.argsort(stable=True))


def test_fisher_takes_the_squared_gradient_before_there_is_a_second_moment() -> None:
    method, whole = METHODS.get("fisher")(), replace(context(), state={})
    assert torch.equal(method.scores(whole), whole.weight * whole.gradient)
    assert not method.scores(replace(whole, gradient=None)).any()


@pytest.mark.parametrize("scale", [2.0**-8, 2.0**16])
def test_a_loss_scale_does_not_change_the_order_of_fisher(scale: float) -> None:
    method, whole = METHODS.get("fisher")(), replace(context(), state={})
    scores, scaled = method.scores(whole), method.scores(replace(whole, gradient=whole.gradient * scale))
    assert torch.equal(scores.abs().argsort(stable=True), scaled.abs().argsort(stable=True))


def test_fisher_can_rank_a_gradient_that_overflowed() -> None:
    """The step is skipped and its mask dropped, so a NaN score must not end the run before."""
    gradient = torch.tensor([float("inf"), float("nan"), 1.0], dtype=torch.float16)
    tensor = PrunableTensor("encoder.weight", (3,))
    scores = METHODS.get("fisher")().scores(
        ShardContext(tensor, range(3), torch.tensor([0.0, 1.0, 2.0]), gradient)
    )
    assert not scores.isnan().any()
    assert scores[2] == 2.0


# ---- methods that keep accumulators


def after_steps(name: str, pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> ShardContext:
    """A method's accumulators after steps with these weights and gradients, and the last context."""
    method, kept = METHODS.get(name)(), {}
    for weight, gradient in pairs:
        tensor = PrunableTensor("w", (len(weight),))
        whole = ShardContext(tensor, range(len(weight)), torch.tensor(weight), torch.tensor(gradient))
        zeros = {each.name: torch.zeros(len(weight)) for each in method.accumulators}
        whole = replace(whole, accumulators=kept or zeros)
        kept = {name: whole.accumulators[name] + added for name, added in method.increments(whole).items()}
    return replace(whole, accumulators=kept)


STEPS = [([1.0, -2.0, 0.0], [0.5, 0.25, 9.0]), ([2.0, -1.0, 0.0], [-0.5, 1.0, 9.0])]


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("movement", [-0.5 + 1.0, 0.5 + 1.0, 0.0]),
        ("snip", [0.5 + 1.0, 0.5 + 1.0, 0.0]),
        ("empirical-fisher", [2 * 0.5**0.5, -(1.0625**0.5), 0.0]),
    ],
)
def test_scores_of_two_steps(name: str, scores: list[float]) -> None:
    torch.testing.assert_close(METHODS.get(name)().scores(after_steps(name, STEPS)), torch.tensor(scores))


def test_soft_movement_trains_its_scores_as_adam_does() -> None:
    method, generator = METHODS.get("soft-movement")(), torch.Generator().manual_seed(0)
    score = torch.nn.Parameter(torch.zeros(1000))
    adam = torch.optim.Adam([score], lr=1.0)
    kept = {each.name: torch.zeros(1000) for each in method.accumulators}
    for step in range(20):
        weight, gradient = torch.randn(2, 1000, generator=generator)
        gradient = gradient * 1e-4 + 2e-5
        score.grad = weight * gradient
        adam.step()
        whole = ShardContext(
            TENSOR, range(1000), weight, gradient, step=step, accumulators=kept, loss_scale=1.0
        )
        kept = {name: kept[name] + added for name, added in method.increments(whole).items()}
    found = method.scores(replace(whole, accumulators=kept))
    torch.testing.assert_close(found, score.detach(), rtol=1e-4, atol=1e-4)


def test_empirical_fisher_orders_by_the_squared_weight_times_the_squared_gradients() -> None:
    method = METHODS.get("empirical-fisher")()
    assert method.absolute
    assert method.needs == ()


def test_gradients_are_without_loss_scale_and_what_is_not_finite_is_zero() -> None:
    values = torch.tensor([2.0, math.nan, math.inf, -math.inf], dtype=torch.bfloat16)
    whole = ShardContext(PrunableTensor("w", (4,)), range(4), torch.ones(4), values, loss_scale=4.0)
    assert whole.unscaled_gradient().tolist() == [0.5, 0.0, 0.0, 0.0]
    assert whole.unscaled_gradient().dtype == torch.float32
    assert replace(whole, gradient=None).unscaled_gradient().tolist() == [0.0] * 4


# ---- methods that let weights grow back


def test_rigl_drops_by_size_and_grows_by_gradient() -> None:
    method, whole = METHODS.get("rigl")(), context()
    assert method.absolute
    assert torch.equal(method.scores(whole), whole.weight)
    assert torch.equal(method.growth_scores(whole), whole.weight * 2)


def test_set_grows_at_random_and_others_at_each_step_and_seed() -> None:
    method, first = METHODS.get("set")(), METHODS.get("set")().growth_scores(context())
    assert torch.equal(method.growth_scores(context()), first)
    for other in (context(step=5), context(seed=1), context(name="other")):
        assert not torch.equal(method.growth_scores(other), first)


# ---- methods of users, and settings that fit no method


class Scored(Method):
    def scores(self, context: ShardContext) -> torch.Tensor:
        return context.weight


class Empty(Method):
    pass


class Wide(Scored):
    accumulators = (Accumulator("sum", torch.float64),)


class Small(Scored):
    accumulators = (Accumulator("sum", torch.bfloat16), Accumulator("other"))


def test_a_class_that_is_no_method_and_a_number_format_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    registered = {"plain": dict, "wide": Wide, "function": len, "small": Small, "empty": Empty}
    monkeypatch.setattr(METHODS, "_registered", registered)
    for name in ("plain", "function"):
        with pytest.raises(
            UserError, match=rf"^pruning.method: '{name}': .* derived from dsprune.methods.method.M"
        ):
            find_method(name)
    with pytest.raises(
        UserError, match=r"^pruning.method: 'wide': its accumulator 'sum' is torch.float64: use "
    ):
        find_method("wide")
    with pytest.raises(UserError, match=r"^pruning.method: 'empty': Empty has no scores: define scores or p"):
        find_method("empty")
    assert find_method("small") is Small
    assert Small.bytes_per_weight() == 6


def test_a_method_that_keeps_something_must_say_how_it_changes() -> None:
    with pytest.raises(NotImplementedError, match=r"^Small keeps accumulators"):
        Small().increments(context())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "rigl", "curve": "one-shot"}, r"^pruning.curve: 'one-shot' .* 'rigl'"),
        ({"method": "set", "curve": "alternating"}, r"^pruning.curve: 'alternating' .* 'set'"),
        ({"method": "fisher", "curve": "constant"}, r"^pruning.curve: .*'constant' .* 'fisher'"),
        ({"method": "snip", "drop": 0.2}, r"^pruning.drop: value 0.2: 'snip' lets no weight grow back"),
        ({"method": "movement", "window": 3}, r"^pruning.window: value 3: 'movement' does not accumulate"),
        ({"method": "obert", "pattern": "2:4", "sparsity": 0.5}, r"^pruning.pattern: value 2:4: 'obert' scores and"),
        ({"method": "fisher", "damping": 0.5}, r"^pruning.damping: value 0.5: 'fisher' does not use it"),
        ({"method": "snip", "recomputations": 4}, r"^pruning.recomputations: value 4: 'snip' does not use it"),
        ({"method": "snip", "first_method": "random"}, r"^pruning.first_method: value random: 'snip' lets no"),
        ({"method": "rigl", "first_method": "set"}, r"^pruning.first_method: value set: .* lets none grow"),
        ({"method": "rigl", "first_method": "obert"}, r"^pruning.first_method: value obert: .* single weights"),
        ({"method": "rigl", "first_method": "fisher"}, r"^pruning.first_method: value fisher: .* optimizer"),
        ({"method": "rigl", "window": 3}, r"^pruning.window: value 3: 'rigl' does not accumulate"),
    ],
)  # fmt: skip
def test_settings_without_meaning_for_the_method_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_pruning(Pruning.model_validate({"sparsity": 0.9, **settings}))


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "rigl", "curve": "constant", "drop": 0.2, "scope": "erk"},
        {"method": "set", "curve": "cubic"},
        {"method": "rigl", "first_method": "snip", "window": 3},
        {"method": "snip", "curve": "one-shot", "window": 3},
        {"method": "magnitude", "curve": "one-shot"},
        {"method": "fisher", "curve": "alternating", "pattern": "2:4", "sparsity": 0.5},
        {"method": "obert", "window": 64, "damping": 1e-6, "recomputations": 16},
    ],
)
def test_settings_that_fit_the_method_are_accepted(settings: dict[str, Any]) -> None:
    check_pruning(Pruning.model_validate({"sparsity": 0.9, **settings}))


def test_the_weights_of_an_output_compete_in_wanda_unless_the_recipe_says_otherwise() -> None:
    given = (
        {},
        {"method": "wanda"},
        {"method": "wanda", "scope": "global"},
        {"method": "wanda", "pattern": "rows"},
    )
    scopes = [Pruning.model_validate({"sparsity": 0.5, **settings}).scope for settings in given]
    assert scopes == ["global", "row", "global", "global"]


def test_random_scores_are_uniform_and_differ_by_seed_and_name_but_not_by_step() -> None:
    method = METHODS.get("random")()
    scores = method.scores(context())
    counts = torch.histc(scores, bins=10, min=0, max=1)
    assert counts.sum() == 1000
    assert ((counts - 100) ** 2 / 100).sum() < 28  # chi-squared with 9 degrees of freedom, p = 0.001
    assert torch.equal(method.scores(context(step=5)), scores)
    assert not torch.equal(method.scores(context(seed=1)), scores)
    assert not torch.equal(method.scores(context(name="other")), scores)


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        UserError,
        match=r"^pruning.method: there is no 'magnitud': did you mean 'magnitude'\? choose one of magnitude, ",
    ):
        METHODS.get("magnitud")()


def test_mix64_is_the_finalizer_of_splitmix64() -> None:
    def reference(number: int) -> int:
        word = 2**64 - 1
        number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 & word
        number = (number ^ (number >> 27)) * 0x94D049BB133111EB & word
        return number ^ (number >> 31)

    numbers = [0, 1, 2, 2**40 + 3, 2**63 - 1, -1, -(2**63)]
    mixed = mix64(torch.tensor(numbers)).tolist()
    assert [number % 2**64 for number in mixed] == [reference(number % 2**64) for number in numbers]


def test_groups_share_a_sparsity_or_are_one_tensor_each() -> None:
    tensors = [PrunableTensor(name, (size,)) for name, size in (("a", 10), ("b", 5), ("c", 11))]
    groups = make_groups(tensors, [0.5, 0.9, 0.5])
    assert [(g.name, g.tensors, g.num_weights, g.num_pruned) for g in groups] == [
        ("a and 1 more", (0, 2), 21, 10),
        ("b", (1,), 5, 4),
    ]
    assert [g.tensors for g in make_groups(tensors, [0.5, 0.5, 0.5], "uniform")] == [(0,), (1,), (2,)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"sparsity": 0.9999999999},
            r"a sparsity of 0.9999999999 leaves none of the 26 weights of a and 2 more",
        ),
        ({"sparsity": 0.95, "scope": "uniform"}, r"a sparsity of 0.95 leaves none of the 10 weights of a"),
    ],
)
def test_a_target_that_leaves_nothing_is_refused(values: dict[str, Any], message: str) -> None:
    tensors = [PrunableTensor(name, (size,)) for name, size in (("a", 10), ("b", 5), ("c", 11))]
    with pytest.raises(UserError, match=message):
        update_groups(tensors, Pruning.model_validate(values), progress=1.0)


# ---- the page


def test_the_page_is_made_from_the_docstrings() -> None:
    page = load("method_cards").page()
    assert (SCRIPTS.parent / "docs" / "methods.md").read_text(encoding="utf-8") == page, (
        "python scripts/method_cards.py > docs/methods.md"
    )
    for name in METHODS:
        _, _, section = page.partition(f"\n## {name}\n")
        facts = re.findall(r"^- (\w+): ", section.partition("\n## ")[0], flags=re.MULTILINE)
        assert {"Formula", "Cost", "Use"} <= set(facts), name


def test_the_method_on_the_page_passes_the_checks() -> None:
    blocks = re.findall(r"```python\n(.*?)```", load("method_cards").page(), flags=re.DOTALL)
    [code] = [block for block in blocks if "class MeanGradient" in block]
    scope: dict[str, Any] = {}
    exec(code, scope)
    for check in (check_parts, check_shards, check_selection):
        check(scope["MeanGradient"]())


def test_the_recipes_on_the_page_can_be_read() -> None:
    texts = re.findall(r"```yaml\npruning: (.*?)\n```", load("method_cards").page(), flags=re.DOTALL)
    assert len(texts) == 5
    for text in texts:
        check_pruning(Pruning.model_validate(yaml.safe_load(text)))

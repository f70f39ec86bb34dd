"""Components and their operations, against the published sizes, and against formulas derived by hand."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    MixtralForCausalLM,
    PretrainedConfig,
    RobertaConfig,
)

from dsprune.model.components import SMC_SPARSITIES as GRID
from dsprune.model.components import UNKNOWN, converted, find_components
from dsprune.model.cost import forward_flops, stretched
from dsprune.model.patterns import patterns_of
from dsprune.model.prunable import choose_weights

BERT_BASE = BertConfig()
ROBERTA_LARGE = RobertaConfig(
    vocab_size=50265, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16,
    intermediate_size=4096, max_position_embeddings=514, type_vocab_size=1,
)  # fmt: skip
EMBEDDINGS = ("word embeddings", "position embeddings", "type embeddings")


def weightless(config: PretrainedConfig) -> nn.Module:
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config).eval()


def sizes_of(config: PretrainedConfig) -> dict[str, int]:
    return {component.name: component.num_weights for component in find_components(weightless(config))}


def test_roberta_large_has_its_published_shares() -> None:
    sizes = sizes_of(ROBERTA_LARGE)
    total = sum(sizes.values())
    embeddings, head, vectors = (
        sum(sizes[name] for name in EMBEDDINGS),
        sizes["head"],
        sizes["norms and biases"],
    )
    assert total / 1e6 == pytest.approx(355.36, abs=0.01)
    assert embeddings / 1e6 == pytest.approx(52.00, abs=0.01)
    assert (total - embeddings - head - vectors) / 1e6 == pytest.approx(301.99, abs=0.01)
    assert (embeddings / total, head / total) == pytest.approx((0.146, 0.003), abs=5e-4)


def test_bert_base_has_its_published_shares() -> None:
    sizes = sizes_of(BERT_BASE)
    matrices = sum(size for name, size in sizes.items() if name.startswith(("attention", "feed-forward")))
    assert sum(sizes[name] for name in EMBEDDINGS) / 1e6 == pytest.approx(23.8, abs=0.05)
    assert matrices / 1e6 == pytest.approx(84.93, abs=0.01)
    assert sizes["pooler"] == 768 * 768
    assert sizes["head"] == 2 * 768


@pytest.mark.parametrize("config", [BERT_BASE, ROBERTA_LARGE], ids=["bert-base", "roberta-large"])
def test_operations_are_those_of_the_formula(config: PretrainedConfig) -> None:
    length = 128
    model = weightless(config)
    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    flops = forward_flops(model, {"input_ids": ids})
    one_token = ("pooler", "head")  # of the first token only
    expected = {
        tensor.name: 2 * tensor.numel * (1 if component.name in one_token else length)
        for component in find_components(model)
        for tensor in component.tensors
        if len(tensor.shape) == 2 and component.name not in EMBEDDINGS
    }
    attention = config.num_hidden_layers * 4 * length**2 * config.hidden_size
    assert flops.by_weight == expected
    assert flops.total == sum(expected.values()) + attention


def test_attention_is_counted_whatever_kernel_the_device_would_take() -> None:
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa").eval()
    flops = forward_flops(model, {"input_ids": torch.zeros(1, 16, dtype=torch.long)})
    assert flops.total - sum(flops.by_weight.values()) == 2 * 4 * 16**2 * 32


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(), DistilBertConfig(), ElectraConfig(), BartConfig(), GPT2Config(),
        LlamaConfig(num_hidden_layers=2),
    ],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_every_family_falls_apart_into_what_it_is_made_of(config: PretrainedConfig) -> None:
    model = weightless(config)
    components = find_components(model)
    names = [tensor.name for component in components for tensor in component.tensors]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters()), "each weight in one"
    assert UNKNOWN not in [component.name for component in components]
    in_blocks = {
        tensor.name
        for component in components
        for tensor, layer in zip(component.tensors, component.layers, strict=True)
        if layer is not None and len(tensor.shape) == 2
    }
    assert in_blocks == {tensor.name for tensor in choose_weights(model).tensors}


def test_matrices_whose_names_say_nothing_are_said_to_be_unknown() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alpha, self.query = nn.Linear(4, 4), nn.Linear(4, 4)

    model = nn.ModuleList([Block(), Block()])
    found = {c.name: [tensor.name for tensor in c.tensors] for c in find_components(nn.Sequential(model))}
    assert found[UNKNOWN] == ["0.0.alpha.weight", "0.1.alpha.weight"]
    assert found["attention query"] == ["0.0.query.weight", "0.1.query.weight"]


@pytest.mark.parametrize(
    "config", [BERT_BASE, BartConfig(), GPT2Config()], ids=lambda config: config.model_type
)
def test_patterns_match_a_component_and_nothing_else(config: PretrainedConfig) -> None:
    model = weightless(config)
    for component in find_components(model):
        names = [tensor.name for tensor in component.tensors]
        default = {tensor.name for tensor in choose_weights(model).tensors}
        found = {t.name for t in choose_weights(model, include=patterns_of(names)).tensors}
        assert found - default == set(names) - default
        if default - set(names):
            rest = {
                t.name
                for t in choose_weights(model, include=patterns_of(names), exclude=patterns_of(names)).tensors
            }
            assert rest == default - set(names)


def test_a_batch_is_stretched_and_cut() -> None:
    batch = {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.tensor([[1, 1, 1]])}
    assert stretched(batch, 5)["input_ids"].tolist() == [[1, 2, 3, 3, 3]]
    assert stretched(batch, 2)["attention_mask"].tolist() == [[1, 1]]


def test_the_conventions_are_those_of_the_benchmark() -> None:
    sizes = sizes_of(ROBERTA_LARGE)
    total = sum(sizes.values())
    linear = sum(size for name, size in sizes.items() if name.startswith(("attention", "feed-forward")))
    assert converted(0.59, total, linear) == pytest.approx(0.694, abs=5e-4)
    assert converted(0.791, total, linear) == pytest.approx(0.93, abs=2e-3)
    assert GRID[:3] == (0.2, 0.36, 0.488)


@pytest.mark.parametrize("grouped", [True, False], ids=["torch's product", "that of transformers"])
def test_experts_count_as_feed_forward_and_routers_apart(
    monkeypatch: pytest.MonkeyPatch, grouped: bool
) -> None:
    if not grouped:  # as with torch 2.6, and on devices for which torch has none
        monkeypatch.setattr("transformers.integrations.moe._can_use_grouped_mm", lambda *_: False)
    sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
    heads = {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_local_experts": 3,
        "num_experts_per_tok": 2,
    }
    model = MixtralForCausalLM(MixtralConfig(**sizes, **heads)).eval()
    found = {component.name: component for component in find_components(model)}
    assert found["routers"].num_weights == 2 * 3 * 8
    assert found["feed-forward in"].num_weights == 2 * 3 * 24 * 8
    assert found["feed-forward out"].num_weights == 2 * 3 * 8 * 12
    assert UNKNOWN not in found
    by_weight = forward_flops(model, {"input_ids": torch.zeros(1, 5, dtype=torch.long)}).by_weight
    passes = 5 * 2  # tokens, and experts of each
    assert by_weight["model.layers.0.mlp.experts.gate_up_proj"] == 2 * passes * 24 * 8
    assert by_weight["model.layers.0.mlp.experts.down_proj"] == 2 * passes * 8 * 12


def test_flops_of_a_recurrent_layer_are_those_of_its_products():
    recurrent = torch.nn.LSTM(5, 4, batch_first=True)
    by_weight = forward_flops(recurrent, {"input": torch.zeros(1, 7, 5)}).by_weight
    assert by_weight == {"weight_ih_l0": 2 * 7 * 16 * 5, "weight_hh_l0": 2 * 7 * 16 * 4}

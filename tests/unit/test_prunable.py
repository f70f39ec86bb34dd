"""The pruned weights of each family, and the effect of patterns."""

import warnings

import pytest
import torch
import transformers as hf
from torch import nn
from torch.nn.utils import prune as torch_prune

from dsprune.errors import UserError
from dsprune.model.prunable import choose_weights, describe_dense, describe_outside
from dsprune.zero.parameters import full_shape

# h hidden size, f feed-forward size, v vocabulary; two layers in each stack.
H, F, V = 8, 24, 40
ENCODER = {
    "hidden_size": H,
    "intermediate_size": F,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": V,
    "pad_token_id": 1,
}
SEQ2SEQ = {
    "d_model": H,
    "encoder_ffn_dim": F,
    "decoder_ffn_dim": F,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "vocab_size": V,
}
ATTENTION, FEED_FORWARD = [(H, H)] * 4, [(F, H), (H, F)]
LAYER = ATTENTION + FEED_FORWARD
DECODER_LAYER = ATTENTION + ATTENTION + FEED_FORWARD
LLAMA = {
    "hidden_size": H,
    "intermediate_size": F,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": V,
}
LLAMA_LAYER = [(H, H), (H // 2, H), (H // 2, H), (H, H), (F, H), (F, H), (H, F)]
GPT2 = {"n_embd": H, "n_inner": F, "n_layer": 2, "n_head": 2, "vocab_size": V, "n_positions": 16}
GPT2_LAYER = [(H, 3 * H), (H, H), (H, F), (F, H)]
OPT = {
    "hidden_size": H,
    "ffn_dim": F,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": V,
    "word_embed_proj_dim": 6,
}
T5 = {"d_model": H, "d_kv": 4, "d_ff": F, "num_layers": 2, "num_heads": 3, "vocab_size": V}
T5_ATTENTION = [(12, H)] * 3 + [(H, 12)]
DEBERTA_ATTENTION = [(3 * H, H), (H, H), (H, H), (H, H)]  # query, key and value; two for positions; output

FAMILIES = [
    (hf.BertForSequenceClassification, hf.BertConfig(**ENCODER), LAYER * 2),
    (hf.BertForMaskedLM, hf.BertConfig(**ENCODER), LAYER * 2),
    (hf.BertForQuestionAnswering, hf.BertConfig(**ENCODER), LAYER * 2),
    (hf.RobertaForSequenceClassification, hf.RobertaConfig(**ENCODER), LAYER * 2),
    (hf.RobertaForMultipleChoice, hf.RobertaConfig(**ENCODER), LAYER * 2),
    (
        hf.DistilBertForSequenceClassification,
        hf.DistilBertConfig(dim=H, hidden_dim=F, n_layers=2, n_heads=2, vocab_size=V),
        LAYER * 2,
    ),
    (hf.ElectraForSequenceClassification, hf.ElectraConfig(embedding_size=4, **ENCODER), LAYER * 2),
    # ALBERT uses one layer twice.
    (hf.AlbertForSequenceClassification, hf.AlbertConfig(embedding_size=4, **ENCODER), LAYER),
    (
        hf.DebertaForSequenceClassification,
        hf.DebertaConfig(**ENCODER, relative_attention=True, pos_att_type=["c2p", "p2c"]),
        (DEBERTA_ATTENTION + FEED_FORWARD) * 2,
    ),
    (hf.DebertaV2ForSequenceClassification, hf.DebertaV2Config(**ENCODER), LAYER * 2),
    (hf.EsmForSequenceClassification, hf.EsmConfig(**ENCODER), LAYER * 2),
    (hf.BartForSequenceClassification, hf.BartConfig(**SEQ2SEQ), LAYER * 2 + DECODER_LAYER * 2),
    (hf.BartForConditionalGeneration, hf.BartConfig(**SEQ2SEQ), LAYER * 2 + DECODER_LAYER * 2),
    (hf.MBartForConditionalGeneration, hf.MBartConfig(**SEQ2SEQ), LAYER * 2 + DECODER_LAYER * 2),
    (
        hf.T5ForConditionalGeneration,
        hf.T5Config(**T5),
        (T5_ATTENTION + FEED_FORWARD) * 2 + (T5_ATTENTION * 2 + FEED_FORWARD) * 2,
    ),
    (hf.GPT2ForSequenceClassification, hf.GPT2Config(**GPT2), GPT2_LAYER * 2),
    (hf.GPT2LMHeadModel, hf.GPT2Config(**GPT2), GPT2_LAYER * 2),
    (hf.OPTForCausalLM, hf.OPTConfig(**OPT), LAYER * 2),
    (hf.LlamaForCausalLM, hf.LlamaConfig(**LLAMA), LLAMA_LAYER * 2),
    (hf.LlamaForSequenceClassification, hf.LlamaConfig(**LLAMA), LLAMA_LAYER * 2),
]


@pytest.mark.parametrize(
    ("model_class", "config", "shapes"), FAMILIES, ids=lambda v: getattr(v, "__name__", "")
)
def test_default_is_the_matrices_of_the_blocks(model_class, config, shapes):
    model = model_class(config)
    tensors = choose_weights(model).tensors
    assert sorted(tensor.shape for tensor in tensors) == sorted(shapes)
    names = names_of(tensors)
    assert [tensor.name for tensor in tensors] == [n for n, _ in model.named_parameters() if n in names]
    assert not any(part in name for name in names for part in ("embed", "head", "pooler", "norm", "bias"))


def names_of(tensors):
    return {tensor.name for tensor in tensors}


def full_size(model_class, config):
    with torch.device("meta"):
        return choose_weights(model_class(config)).tensors


def test_bert_base_has_72_matrices_of_84934656_weights():
    tensors = full_size(hf.BertForSequenceClassification, hf.BertConfig())
    assert (len(tensors), sum(t.numel for t in tensors)) == (72, 84_934_656)


def test_roberta_large_has_144_matrices_of_301989888_weights():
    large = hf.RobertaConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16
    )
    tensors = full_size(hf.RobertaForMultipleChoice, large)
    assert (len(tensors), sum(t.numel for t in tensors)) == (144, 301_989_888)


def test_minilm_l6_has_36_matrices_of_10616832_weights():
    minilm = hf.BertConfig(
        hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=12
    )
    tensors = full_size(hf.BertForSequenceClassification, minilm)
    assert (len(tensors), sum(t.numel for t in tensors)) == (36, 10_616_832)


def old_weight_norm(module):
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        torch.nn.utils.weight_norm(module)


@pytest.fixture
def bert():
    return hf.BertForMaskedLM(hf.BertConfig(**ENCODER))


def test_include_adds_and_exclude_takes_away(bert):
    default = names_of(choose_weights(bert).tensors)
    added = names_of(
        choose_weights(bert, include=["*.word_embeddings.weight", "*.intermediate.dense.bias"]).tensors
    )
    assert added - default == {
        "bert.embeddings.word_embeddings.weight",
        *(f"bert.encoder.layer.{i}.intermediate.dense.bias" for i in (0, 1)),
    }
    taken = names_of(choose_weights(bert, exclude=["*.layer.0.*"]).tensors)
    assert default - taken == {name for name in default if ".layer.0." in name}


def test_exclude_wins_over_include(bert):
    both = choose_weights(bert, include=["*embeddings.weight"], exclude=["*.position_embeddings.*"]).tensors
    assert "bert.embeddings.position_embeddings.weight" not in names_of(both)
    assert "bert.embeddings.word_embeddings.weight" in names_of(both)


def test_only_replaces_the_default_set_and_leaves_vectors_dense(bert):
    choice = choose_weights(bert, only=["*.layer.1.attention.*", "cls.predictions.transform.*"])
    assert names_of(choice.tensors) == {
        *(f"bert.encoder.layer.1.attention.self.{part}.weight" for part in ("query", "key", "value")),
        "bert.encoder.layer.1.attention.output.dense.weight",
        "cls.predictions.transform.dense.weight",
    }
    assert {matrix.reason for matrix in choice.dense} == {"not in pruning.only"}
    with_more = choose_weights(
        bert, ["*.0.intermediate.dense.bias"], ["*.query.*"], None, ["*.layer.1.attention.*"]
    ).tensors
    assert names_of(with_more) == names_of(choice.tensors) - {
        "bert.encoder.layer.1.attention.self.query.weight", "cls.predictions.transform.dense.weight"
    } | {"bert.encoder.layer.0.intermediate.dense.bias"}  # fmt: skip


def test_a_tied_weight_is_one_tensor_that_any_of_its_names_finds(bert):
    assert bert.cls.predictions.decoder.weight is bert.bert.embeddings.word_embeddings.weight
    tensors = choose_weights(
        bert, include=["cls.predictions.decoder.weight"], sparsities={"cls.*": 0.5}
    ).tensors
    tied = [tensor for tensor in tensors if tensor.shape == (V, H)]
    assert [(tensor.name, tensor.sparsity) for tensor in tied] == [
        ("bert.embeddings.word_embeddings.weight", 0.5)
    ]


def test_the_first_pattern_that_matches_sets_the_sparsity(bert):
    tensors = choose_weights(bert, sparsities={"*.layer.0.*": 0.5, "*.attention.*": 0.7}).tensors
    for tensor in tensors:
        in_first, in_second = ".layer.0." in tensor.name, ".attention." in tensor.name
        assert tensor.sparsity == (0.5 if in_first else 0.7 if in_second else None)


def test_zero3_parameters_have_their_full_shape(bert):
    expected = choose_weights(bert).tensors
    for parameter in bert.parameters():
        parameter.ds_shape, parameter.data = parameter.shape, torch.empty(0)
    assert choose_weights(bert, shape_of=full_shape).tensors == expected


def test_lists_of_plain_layers_are_no_blocks():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleList(nn.Linear(4, 2) for _ in range(3))

    with pytest.raises(
        UserError, match=r"nothing to prune in Heads: .*here, such as 'heads\.\[0-2\]\.weight'"
    ):
        choose_weights(Heads())
    assert len(choose_weights(Heads(), include=["heads.*.weight"]).tensors) == 3


@pytest.mark.parametrize("name", ["heads", "task_heads", "classifiers"])
@pytest.mark.parametrize("many", [nn.ModuleList, lambda heads: nn.ModuleDict(zip("abc", heads, strict=True))])
def test_a_head_of_each_task_stays_dense(bert, name, many):
    heads = many(
        [nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Linear(8, 2)) for _ in range(3)]
    )
    expected = choose_weights(bert).tensors
    bert.add_module(name, heads)
    assert choose_weights(bert).tensors == expected
    bert.bert.encoder.layer[0].add_module(name, heads)  # of attention: matrices of the block
    assert len(choose_weights(bert).tensors) == len(expected) + 6


def test_excluding_everything_is_refused(bert):
    with pytest.raises(UserError, match=r"^pruning\.include: nothing to prune in BertForMaskedLM"):
        choose_weights(bert, exclude=["*"])


@pytest.mark.parametrize("field", ["include", "exclude", "only"])
def test_a_pattern_without_a_match_is_refused_with_near_misses(bert, field):
    with pytest.raises(
        UserError, match=rf"^pruning\.{field}: .*matches no .*did you mean 'word_embeddings\.weight'"
    ):
        choose_weights(bert, **{field: ["*.word_embeding.weight"]})


def test_a_pattern_unlike_any_name_is_refused_with_the_rule(bert):
    with pytest.raises(UserError, match=r"'zzz' matches no parameter of the model: .*complete name"):
        choose_weights(bert, include=["zzz"])


def test_a_sparsity_for_what_is_not_pruned_is_refused(bert):
    with pytest.raises(
        UserError, match=r"^pruning\.sparsities: '\*word_embeddings\*' matches no weight that is pruned"
    ):
        choose_weights(bert, sparsities={"*word_embeddings*": 0.5})


def test_a_sparsity_that_earlier_patterns_hide_is_refused(bert):
    with pytest.raises(
        UserError, match=r"^pruning\.sparsities: '\*\.layer\.0\.\*' has no effect.*put it before them"
    ):
        choose_weights(bert, sparsities={"*": 0.5, "*.layer.0.*": 0.7})


FROZEN = "bert.encoder.layer.1.output.dense.weight"


@pytest.fixture
def frozen(bert):
    bert.get_parameter(FROZEN).requires_grad_(False)
    return bert


def test_a_frozen_matrix_is_refused_with_a_pattern_that_excludes_it_alone(frozen):
    with pytest.raises(UserError, match=rf"^pruning: 15\.0 % .*frozen.* pruning\.exclude to \['{FROZEN}'\]"):
        choose_weights(frozen)
    choice = choose_weights(frozen, exclude=[FROZEN])
    assert len(choice.tensors) == 11
    assert [(matrix.name, matrix.reason) for matrix in choice.dense] == [(FROZEN, "excluded")]


def test_little_that_is_frozen_stays_dense_and_is_said(bert):
    bert.bert.encoder.layer[0].tiny = nn.Linear(2, 4)
    bert.bert.encoder.layer[0].tiny.weight.requires_grad_(False)
    choice = choose_weights(bert)
    assert len(choice.tensors) == 12
    line = describe_dense(choice)
    assert "1 x [4, 2] bert.encoder.layer.0.tiny.weight (frozen" in line
    assert line.startswith("dense inside the blocks, 0.62 % of their weights: ")


def test_a_frozen_weight_that_the_recipe_names_is_refused(frozen):
    with pytest.raises(UserError, match=rf"^pruning: {FROZEN} is frozen.*exclude"):
        choose_weights(frozen, include=[FROZEN])


def test_a_wide_convolution_is_refused_until_the_recipe_decides():
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Conv1d(8, 8, 3)) for _ in range(2))
    with pytest.raises(
        UserError, match=r"^pruning: 75\.0 % .*\(convolution\).*\['\[01\]\.1\.weight'\].*include"
    ):
        choose_weights(blocks)
    assert len(choose_weights(blocks, include=["[01].1.weight"]).tensors) == 4
    assert len(choose_weights(blocks, exclude=["[01].1.weight"]).tensors) == 2


def test_blocks_may_alternate_between_two_classes():
    attention, recurrent = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 6), nn.Tanh())
    other = type("Recurrent", (nn.Sequential,), {})(*recurrent)
    assert {tensor.name for tensor in choose_weights(nn.ModuleList([attention, other])).tensors} == {
        "0.0.weight",
        "1.0.weight",
    }


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)


def stack(*, more=()):
    return nn.Sequential(Block(), Block(), *more)


@pytest.mark.parametrize(
    ("parts", "pruned"),
    [
        ({"encoder": stack(more=[nn.LayerNorm(8)]), "decoder": stack()}, {"encoder", "decoder"}),
        ({"all": nn.Sequential(nn.Embedding(9, 8), *stack(), nn.Linear(8, 2))}, {"all"}),
        ({"layer1": stack(), "layer2": nn.Sequential(Block()), "layer3": Block()}, {"layer1", "layer2", "layer3"}),
        ({"encoder": stack(), "task_heads": nn.ModuleDict({"a": Block()}), "head": Block()}, {"encoder"}),
        ({"encoder": stack(), "projector": nn.Sequential(nn.Sequential(nn.Linear(8, 8)), nn.ReLU())}, {"encoder"}),
    ],
    ids=["norm", "flat", "outside of a stack", "heads", "one container"],
)  # fmt: skip
def test_blocks_are_found_beside_plain_layers_and_outside_of_stacks(parts, pruned):
    model = nn.Module()
    for name, part in parts.items():
        model.add_module(name, part)
    found = choose_weights(model).tensors
    assert {tensor.name.partition(".")[0] for tensor in found} == pruned
    assert all(tensor.name.endswith((".up.weight", ".down.weight")) for tensor in found)


def test_many_weights_outside_of_the_blocks_are_said(bert):
    assert describe_outside(choose_weights(bert)) is None
    parts = {"encoder": stack(), "rnn": nn.LSTM(8, 16), "embed": nn.Embedding(9, 8), "head": nn.Linear(8, 9)}
    parts["head"].weight = parts["embed"].weight
    model = nn.ModuleDict(parts)
    line = describe_outside(choose_weights(model))
    assert line.startswith(
        "dense outside of the blocks, 75.00 % of all matrices' weights: 1 x [64, 16] rnn.weight_hh_l0; "
    )
    assert "embed" not in line
    assert [matrix.name for matrix in choose_weights(model, ["rnn.weight_hh_l0"]).outside] == [
        "rnn.weight_ih_l0"
    ]
    assert not choose_weights(model, exclude=["rnn.weight*"]).outside
    assert not choose_weights(model, only=["encoder.*"]).outside


class Mixture(nn.Module):
    """Experts as raw parameters or a list, and a router as a module or a parameter."""

    def __init__(self, router, experts):
        super().__init__()
        setattr(self, router[0], router[1])
        setattr(self, experts[0], experts[1])
        self.gate_proj = nn.Linear(8, 16)


@pytest.mark.parametrize(
    "router",
    [
        ("gate", nn.Linear(8, 4)),
        ("router", nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4))),
        ("w_gate", nn.Parameter(torch.randn(8, 4))),
        ("choose", nn.Linear(8, 4)),
    ],
    ids=lambda router: router[0],
)
@pytest.mark.parametrize(
    "experts",
    [
        ("experts", nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8)) for _ in range(4))),
        ("routed_experts", nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8)) for _ in range(4))),
        ("w1", nn.Parameter(torch.randn(4, 16, 8))),
    ],
    ids=lambda experts: experts[0],
)  # fmt: skip
def test_what_chooses_experts_stays_dense(router, experts):
    choice = choose_weights(nn.ModuleList([Mixture(router, experts)]))
    assert all(matrix.reason == "router" for matrix in choice.dense)
    assert {matrix.name.split(".")[1] for matrix in choice.dense} == {router[0]}
    assert {tensor.name.split(".")[1] for tensor in choice.tensors} == {experts[0], "gate_proj"}


def test_without_experts_a_gate_is_a_matrix_and_a_router_is_none(bert):
    bert.bert.encoder.layer[0].gate = nn.Linear(8, 8)
    bert.bert.encoder.layer[0].modality_router = nn.Linear(8, 4)
    bert.bert.encoder.layer[0].attention_biases = nn.Parameter(torch.zeros(4, 8))
    bert.bert.encoder.layer[0].group_token = nn.Parameter(torch.zeros(1, 4, 8))
    bert.bert.encoder.layer[0].layer_gamma = nn.Parameter(torch.ones(1, 5, 8))
    choice = choose_weights(bert)
    assert "bert.encoder.layer.0.gate.weight" in names_of(choice.tensors)
    kinds = {matrix.name.rpartition("layer.0.")[2]: matrix.reason for matrix in choice.dense}
    table = "bias or table"
    tables = dict.fromkeys(("attention_biases", "group_token", "layer_gamma"), table)
    assert kinds == {"modality_router.weight": "router"} | tables


def test_experts_have_their_full_shape_under_stage_3():
    model = nn.ModuleList([Mixture(("gate", nn.Linear(8, 4)), ("w1", nn.Parameter(torch.randn(4, 16, 8))))])
    expected = choose_weights(model)
    for parameter in model.parameters():
        parameter.ds_shape, parameter.data = parameter.shape, torch.empty(0)
    assert choose_weights(model, shape_of=full_shape) == expected


PLAIN = "bert.encoder.layer.1.output.dense"


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda m: torch_prune.l1_unstructured(m, "weight", 0.5), r"prune\.remove\(module, 'weight'\)"),
        (torch.nn.utils.parametrizations.weight_norm, r"remove_parametrizations\(module, 'weight'\)"),
        (torch.nn.utils.parametrizations.orthogonal, r"remove_parametrizations\(module, 'weight'\)"),
        (torch.nn.utils.spectral_norm, r"remove_spectral_norm\(module, 'weight'\)"),
        (old_weight_norm, r"remove_weight_norm\(module, 'weight'\)"),
    ],
    ids=["prune", "weight_norm", "orthogonal", "spectral_norm", "old_weight_norm"],
)  # fmt: skip
def test_a_weight_that_is_computed_is_refused_with_the_call_that_undoes_it(bert, wrap, message):
    wrap(bert.get_submodule(PLAIN))
    with pytest.raises(UserError, match=rf"^model: {PLAIN}: its weight .*{message}"):
        choose_weights(bert)
    assert len(choose_weights(bert, exclude=[f"{PLAIN}.*"]).tensors) == 11


def test_a_computed_weight_outside_of_the_blocks_does_not_matter(bert):
    torch.nn.utils.parametrizations.weight_norm(bert.cls.predictions.transform.dense)
    assert len(choose_weights(bert).tensors) == 12


def test_an_adapter_is_refused_with_the_call_that_merges_it(bert):
    adapter = nn.Module()
    adapter.base_layer = bert.get_submodule(PLAIN).requires_grad_(False)
    adapter.lora_A, adapter.lora_B = nn.Linear(24, 2, bias=False), nn.Linear(2, 8, bias=False)
    bert.bert.encoder.layer[1].output.dense = adapter
    with pytest.raises(UserError, match=rf"^model: {PLAIN} has an adapter of PEFT: .*merge_and_unload\(\)"):
        choose_weights(bert)


def test_a_scalar_is_refused(bert):
    bert.temperature = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(UserError, match=r"^pruning: temperature is a torch\.float32 of shape \[\].*exclude"):
        choose_weights(bert, include=["temperature"])

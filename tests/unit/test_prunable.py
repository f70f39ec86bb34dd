"""Which weights are pruned, family by family, and what patterns do to the choice."""

import pytest
import torch
import transformers as hf
from torch import nn

from dsprune.errors import UserError
from dsprune.model.prunable import find_prunable
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
    tensors = find_prunable(model)
    assert sorted(tensor.shape for tensor in tensors) == sorted(shapes)
    names = names_of(tensors)
    assert [tensor.name for tensor in tensors] == [n for n, _ in model.named_parameters() if n in names]
    assert not any(part in name for name in names for part in ("embed", "head", "pooler", "norm", "bias"))


def names_of(tensors):
    return {tensor.name for tensor in tensors}


def full_size(model_class, config):
    with torch.device("meta"):
        return find_prunable(model_class(config))


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


@pytest.fixture
def bert():
    return hf.BertForMaskedLM(hf.BertConfig(**ENCODER))


def test_include_adds_and_exclude_takes_away(bert):
    default = names_of(find_prunable(bert))
    added = names_of(find_prunable(bert, include=["*.word_embeddings.weight", "*.intermediate.dense.bias"]))
    assert added - default == {
        "bert.embeddings.word_embeddings.weight",
        *(f"bert.encoder.layer.{i}.intermediate.dense.bias" for i in (0, 1)),
    }
    taken = names_of(find_prunable(bert, exclude=["*.layer.0.*"]))
    assert default - taken == {name for name in default if ".layer.0." in name}


def test_exclude_wins_over_include(bert):
    both = find_prunable(bert, include=["*embeddings.weight"], exclude=["*.position_embeddings.*"])
    assert "bert.embeddings.position_embeddings.weight" not in names_of(both)
    assert "bert.embeddings.word_embeddings.weight" in names_of(both)


def test_a_tied_weight_is_one_tensor_that_any_of_its_names_finds(bert):
    assert bert.cls.predictions.decoder.weight is bert.bert.embeddings.word_embeddings.weight
    tensors = find_prunable(bert, include=["cls.predictions.decoder.weight"], sparsities={"cls.*": 0.5})
    tied = [tensor for tensor in tensors if tensor.shape == (V, H)]
    assert [(tensor.name, tensor.sparsity) for tensor in tied] == [
        ("bert.embeddings.word_embeddings.weight", 0.5)
    ]


def test_the_first_pattern_that_matches_sets_the_sparsity(bert):
    tensors = find_prunable(bert, sparsities={"*.layer.0.*": 0.5, "*.attention.*": 0.7})
    for tensor in tensors:
        in_first, in_second = ".layer.0." in tensor.name, ".attention." in tensor.name
        assert tensor.sparsity == (0.5 if in_first else 0.7 if in_second else None)


def test_zero3_parameters_have_their_full_shape(bert):
    expected = find_prunable(bert)
    for parameter in bert.parameters():
        parameter.ds_shape, parameter.data = parameter.shape, torch.empty(0)
    assert find_prunable(bert, shape_of=full_shape) == expected


def test_lists_of_plain_layers_are_no_blocks():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleList(nn.Linear(4, 2) for _ in range(3))

    with pytest.raises(UserError, match=r"^pruning\.include: nothing to prune in Heads: .*name weights here"):
        find_prunable(Heads())
    assert len(find_prunable(Heads(), include=["heads.*.weight"])) == 3


def test_excluding_everything_is_refused(bert):
    with pytest.raises(UserError, match=r"^pruning\.include: nothing to prune in BertForMaskedLM"):
        find_prunable(bert, exclude=["*"])


@pytest.mark.parametrize("field", ["include", "exclude"])
def test_a_pattern_without_a_match_is_refused_with_near_misses(bert, field):
    with pytest.raises(
        UserError, match=rf"^pruning\.{field}: .*matches no .*did you mean 'word_embeddings\.weight'"
    ):
        find_prunable(bert, **{field: ["*.word_embeding.weight"]})


def test_a_pattern_unlike_any_name_is_refused_with_the_rule(bert):
    with pytest.raises(UserError, match=r"'zzz' matches no parameter of the model: .*complete name"):
        find_prunable(bert, include=["zzz"])


def test_a_sparsity_for_what_is_not_pruned_is_refused(bert):
    with pytest.raises(
        UserError, match=r"^pruning\.sparsities: '\*word_embeddings\*' matches no weight that is pruned"
    ):
        find_prunable(bert, sparsities={"*word_embeddings*": 0.5})


def test_a_sparsity_that_earlier_patterns_hide_is_refused(bert):
    with pytest.raises(
        UserError, match=r"^pruning\.sparsities: '\*\.layer\.0\.\*' has no effect.*put it before them"
    ):
        find_prunable(bert, sparsities={"*": 0.5, "*.layer.0.*": 0.7})


def test_a_frozen_weight_is_refused(bert):
    frozen = bert.bert.encoder.layer[1].output.dense.weight.requires_grad_(False)
    assert not frozen.requires_grad
    with pytest.raises(
        UserError, match=r"^pruning: bert\.encoder\.layer\.1\.output\.dense\.weight is frozen .*exclude"
    ):
        find_prunable(bert)
    assert len(find_prunable(bert, exclude=["*.layer.1.output.dense.weight"])) == 11


def test_a_scalar_is_refused(bert):
    bert.temperature = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(UserError, match=r"^pruning: temperature is a torch\.float32 of shape \[\].*exclude"):
        find_prunable(bert, include=["temperature"])

"""For each model family, exactly the matrices in the blocks that a forward pass uses are pruned."""

import re
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

from dsprune.model.cost import forward_flops
from dsprune.model.prunable import choose_weights

VOCABULARY, NUM_TOKENS = 48, 24
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 64,
}
GROUPED_QUERY = {**SIZES, "num_key_value_heads": 2, "head_dim": 4}
EXPERTS = {**GROUPED_QUERY, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
SEQ2SEQ = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 16, "n_inner": 40, "n_layer": 2, "n_head": 4, "n_positions": 64}
MAMBA = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
DEEPSEEK = {
    **{key: value for key, value in EXPERTS.items() if key != "head_dim"},
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 4,
}
ROUTER = r"\.(gate|router)\."

FAMILIES: list[tuple[str, dict[str, Any], str]] = [
    ("BertForSequenceClassification", SIZES, ""),
    ("RobertaForMaskedLM", SIZES, ""),
    ("XLMRobertaForMaskedLM", SIZES, ""),
    ("CamembertForMaskedLM", SIZES, ""),
    ("DistilBertForMaskedLM", {"vocab_size": VOCABULARY, "dim": 16, "hidden_dim": 40, "n_layers": 2, "n_heads": 4}, ""),
    ("ElectraForPreTraining", {**SIZES, "embedding_size": 8}, ""),
    ("AlbertForMaskedLM", {**SIZES, "embedding_size": 8}, ""),
    ("DebertaForMaskedLM", {**SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, ""),
    ("DebertaV2ForMaskedLM", {**SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, ""),
    ("ModernBertForMaskedLM", SIZES, ""),
    ("MPNetForMaskedLM", SIZES, ""),
    ("LongformerForMaskedLM", {**SIZES, "attention_window": 8}, ""),
    ("BigBirdForMaskedLM", {**SIZES, "attention_type": "original_full"}, ""),
    ("NystromformerForMaskedLM", {**SIZES, "segment_means_seq_len": 24, "num_landmarks": 4}, r"\.self\.conv\."),
    ("RemBertForMaskedLM", {**SIZES, "input_embedding_size": 8, "output_embedding_size": 8}, ""),
    ("FNetForMaskedLM", {**SIZES, "tpu_short_seq_length": 24}, ""),
    ("LayoutLMForMaskedLM", SIZES, ""),
    ("EsmForMaskedLM", {**SIZES, "position_embedding_type": "rotary"}, ""),
    (
        "XLNetLMHeadModel",
        {"vocab_size": VOCABULARY, "d_model": 16, "n_layer": 2, "n_head": 4, "d_inner": 40},
        r"\.seg_embed$|_bias$",
    ),
    ("ConvBertForMaskedLM", {**SIZES, "embedding_size": 16}, r"\.depthwise\."),
    (
        "FunnelForMaskedLM",
        {"vocab_size": VOCABULARY, "d_model": 16, "n_head": 4, "d_head": 4, "d_inner": 40, "block_sizes": [1, 1]},
        r"\.seg_embed$|_bias$",
    ),
    ("SqueezeBertForMaskedLM", {**SIZES, "embedding_size": 16, "q_groups": 2, "intermediate_groups": 2}, ""),
    ("BartForConditionalGeneration", SEQ2SEQ, ""),
    ("MBartForConditionalGeneration", SEQ2SEQ, ""),
    ("PegasusForConditionalGeneration", SEQ2SEQ, ""),
    ("MarianMTModel", SEQ2SEQ, ""),
    ("LEDForConditionalGeneration", {**SEQ2SEQ, "attention_window": 8}, ""),
    (
        "ProphetNetForConditionalGeneration",
        {"vocab_size": VOCABULARY, "hidden_size": 16, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40,
         "num_encoder_layers": 2, "num_decoder_layers": 2, "num_encoder_attention_heads": 4,
         "num_decoder_attention_heads": 4, "max_position_embeddings": 64},
        "",
    ),
    ("T5ForConditionalGeneration", T5, r"\.relative_attention_bias\."),
    ("UMT5ForConditionalGeneration", T5, r"\.relative_attention_bias\."),
    ("LongT5ForConditionalGeneration", {**T5, "local_radius": 4}, r"\.relative_attention_bias\."),
    (
        "SwitchTransformersForConditionalGeneration",
        {**T5, "num_experts": 4, "expert_capacity": 24, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
        rf"\.relative_attention_bias\.|{ROUTER}",
    ),
    ("GPT2LMHeadModel", GPT2, ""),
    ("GPTJForCausalLM", {**GPT2, "rotary_dim": 4}, ""),
    ("CodeGenForCausalLM", {**GPT2, "n_head": 4, "rotary_dim": 4}, ""),
    ("GPTNeoXForCausalLM", SIZES, ""),
    ("OPTForCausalLM", {**SIZES, "ffn_dim": 40, "word_embed_proj_dim": 16}, ""),
    ("BloomForCausalLM", {"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 2, "n_head": 4}, ""),
    ("MptForCausalLM", {"vocab_size": VOCABULARY, "d_model": 16, "n_layers": 2, "n_heads": 4}, ""),
    ("FalconForCausalLM", SIZES, ""),
    ("LlamaForCausalLM", GROUPED_QUERY, ""),
    ("MistralForCausalLM", GROUPED_QUERY, ""),
    ("Qwen3ForCausalLM", GROUPED_QUERY, ""),
    ("Gemma3ForCausalLM", GROUPED_QUERY, ""),
    ("PhiForCausalLM", SIZES, ""),
    ("CohereForCausalLM", {**GROUPED_QUERY, "use_qk_norm": True}, r"\._?[qk]_norm\."),
    ("MixtralForCausalLM", {**EXPERTS, "num_local_experts": 4}, ROUTER),
    (
        "Qwen2MoeForCausalLM",
        {**EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 24},
        rf"{ROUTER}|\.shared_expert_gate\.",
    ),
    ("Qwen3MoeForCausalLM", {**EXPERTS, "num_experts": 4}, ROUTER),
    ("OlmoeForCausalLM", {**EXPERTS, "num_experts": 4}, ROUTER),
    ("GptOssForCausalLM", {**EXPERTS, "num_local_experts": 4}, rf"{ROUTER}|_bias$"),
    ("DeepseekV3ForCausalLM", DEEPSEEK, ROUTER),
    ("PhimoeForCausalLM", {**EXPERTS, "num_local_experts": 4}, ROUTER),
    ("GraniteMoeForCausalLM", {**EXPERTS, "num_local_experts": 4}, ROUTER),
    (
        "DbrxForCausalLM",
        {"vocab_size": VOCABULARY, "d_model": 16, "n_heads": 4, "n_layers": 2,
         "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
         "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2}},
        ROUTER,
    ),
    ("Llama4ForCausalLM", {**EXPERTS, "num_local_experts": 4, "intermediate_size_mlp": 40}, ROUTER),
    ("JetMoeForCausalLM", {**SIZES, "num_key_value_heads": 2, "kv_channels": 4, "num_local_experts": 4}, ROUTER),
    (
        "JambaForCausalLM",
        {**SIZES, "num_key_value_heads": 2, "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
         "num_experts": 4, "use_mamba_kernels": False, "mamba_d_state": 4, "mamba_dt_rank": 4},
        rf"{ROUTER}|\.A_log$|\.conv1d\.",
    ),
    ("MambaForCausalLM", MAMBA, r"\.A_log$|\.conv1d\."),
    ("Mamba2ForCausalLM", {**MAMBA, "num_heads": 8, "head_dim": 4, "n_groups": 2, "chunk_size": 8}, r"\.conv1d\."),
]  # fmt: skip


@pytest.mark.parametrize(("name", "values", "dense"), FAMILIES, ids=[name for name, *_ in FAMILIES])
def test_the_matrices_of_the_blocks_are_pruned_and_the_rest_is_named(
    name: str, values: dict[str, Any], dense: str
) -> None:
    model_class = getattr(hf, name)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**values)).eval()
    tokens = torch.randint(3, VOCABULARY, (1, NUM_TOKENS))
    inputs = {"input_ids": tokens} | (
        {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
    )
    # Without global attention, its projections multiply nothing.
    if hasattr(model.config, "attention_window"):
        inputs["global_attention_mask"] = (tokens == tokens[0, 0]).long()
    check(model, inputs, dense)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 40, batch_first=True), 2), ("src",)),
        (nn.Transformer(16, 4, 2, 2, 40, batch_first=True), ("src", "tgt")),
        (nn.Sequential(*(nn.TransformerEncoderLayer(16, 4, 40, batch_first=True) for _ in range(2))), ("input",)),
    ],
    ids=["TransformerEncoder", "Transformer", "Sequential"],
)  # fmt: skip
def test_the_layers_of_torch_are_pruned_with_their_stacked_projections(
    model: nn.Module, inputs: tuple[str, ...]
) -> None:
    check(model, dict.fromkeys(inputs, torch.randn(5, 2, 16)), "")
    assert any(tensor.name.endswith("in_proj_weight") for tensor in choose_weights(model).tensors)


def check(model: nn.Module, inputs: dict[str, torch.Tensor], dense: str) -> None:
    """Compare the choice, made from the structure, with the matrices that a forward pass uses."""
    choice = choose_weights(model)
    in_blocks = {name: p for name, p in model.named_parameters() if re.search(r"(^|\.)\d+\.", name)}
    declared = {name for name, p in in_blocks.items() if p.dim() > 1 and dense and re.search(dense, name)}
    multiplied = forward_flops(model, inputs).by_weight.keys() & in_blocks.keys()
    assert {tensor.name for tensor in choice.tensors} == multiplied - declared
    assert {matrix.name for matrix in choice.dense} == declared

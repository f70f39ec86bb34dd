"""A model with dropout 0 has equal outputs in training mode."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from dsprune.model.fit import set_dropout

TINY: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
SMALL: dict[str, Any] = {"vocab_size": 32, "pad_token_id": 0}
HALF: dict[str, Any] = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}
SEQ2SEQ: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
}

MODELS: dict[str, dict[str, Any]] = {
    "bert": TINY | HALF,
    "roberta": TINY | HALF,
    "electra": TINY | HALF | {"embedding_size": 16},
    "deberta-v2": TINY | HALF | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "distilbert": {
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 32,
        "dropout": 0.5,
        "attention_dropout": 0.5,
    },
    "modernbert": TINY
    | {
        "attention_dropout": 0.5,
        "mlp_dropout": 0.5,
        "embedding_dropout": 0.5,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
    "llama": TINY | {"attention_dropout": 0.5},
    "gpt2": {
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "resid_pdrop": 0.5,
        "embd_pdrop": 0.5,
        "attn_pdrop": 0.5,
    },
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.5},
    "bart": SEQ2SEQ
    | {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "dropout": 0.5}
    | {"attention_dropout": 0.5, "activation_dropout": 0.5},
    "xlnet": {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32, "dropout": 0.5},
}


def trained(family: str) -> PreTrainedModel:
    model: PreTrainedModel = AutoModel.from_config(AutoConfig.for_model(family, **SMALL, **MODELS[family]))
    model.train()
    return model


def outputs(model: PreTrainedModel) -> torch.Tensor:
    """The output of one forward pass."""
    ids = torch.arange(3, 15).view(2, 6)
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    output: torch.Tensor = next(iter(model(input_ids=ids, **more).values()))
    return output.detach()


@pytest.mark.parametrize("family", MODELS)
def test_dropout_is_set_wherever_a_model_keeps_it(family: str) -> None:
    model = trained(family)
    set_dropout(model, None)
    assert not torch.equal(outputs(model), outputs(model)), "the model has no dropout to begin with"
    set_dropout(model, 0.0)
    assert torch.equal(outputs(model), outputs(model))
    set_dropout(model, 0.5)
    assert not torch.equal(outputs(model), outputs(model))


def test_the_configuration_says_it_too_and_layers_are_dropped_as_before() -> None:
    model = AutoModel.from_config(
        AutoConfig.for_model("bart", **SMALL, **MODELS["bart"], encoder_layerdrop=0.25)
    )
    set_dropout(model, 0.125)
    assert (model.config.dropout, model.config.attention_dropout) == (0.125, 0.125)
    assert model.config.encoder_layerdrop == 0.25

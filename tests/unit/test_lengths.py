"""The longest input of each family, by its configuration and by a forward pass."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers as hf

from dsprune.errors import UserError
from dsprune.model.fit import check_lengths
from dsprune.model.pretrained import model_class

SIZES = {
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
PADDED = {**SIZES, "pad_token_id": 1, "max_position_embeddings": 16}
SEQ2SEQ = {
    "vocab_size": 20, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": 16,
}  # fmt: skip
FAMILIES = [
    (hf.BertModel(hf.BertConfig(**SIZES, max_position_embeddings=16)), 16),
    (hf.RobertaModel(hf.RobertaConfig(**PADDED)), 14),
    (hf.CamembertModel(hf.CamembertConfig(**PADDED)), 14),
    (hf.MPNetModel(hf.MPNetConfig(**PADDED)), 14),
    (hf.EsmModel(hf.EsmConfig(**PADDED)), 14),
    (hf.BartModel(hf.BartConfig(**SEQ2SEQ)), 16),
    (hf.GPT2Model(hf.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=16)), 16),
    (hf.XLNetModel(hf.XLNetConfig(vocab_size=20, d_model=8, n_layer=1, n_head=2, d_inner=8)), None),
    (hf.T5EncoderModel(hf.T5Config(vocab_size=20, d_model=8, num_layers=1, num_heads=2, d_kv=4, d_ff=8)), None),
]  # fmt: skip


def runs(model, length):
    try:
        model(input_ids=torch.full((1, length), 3))
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize(("model", "longest"), FAMILIES, ids=[type(model).__name__ for model, _ in FAMILIES])
def test_the_longest_input_is_the_longest_that_runs(model, longest):
    no_limit = SimpleNamespace(model_max_length=int(1e30))
    allowed = longest or 700
    check_lengths(model, no_limit, allowed)
    assert runs(model, allowed)
    if longest is not None:
        with pytest.raises(
            UserError, match=rf"^task\.max_length: {longest + 1}: the model takes at most {longest} "
        ):
            check_lengths(model, no_limit, longest + 1)
        assert not runs(model, longest + 1)


def test_the_tokenizer_may_have_the_lower_limit():
    model, _ = FAMILIES[0]
    with pytest.raises(UserError, match=r"^task\.max_length: 9: the model takes at most 8 tokens"):
        check_lengths(model, SimpleNamespace(model_max_length=8), 9)


@pytest.mark.parametrize("value", ["/etc", "8", True, None, [8]])
def test_a_limit_is_a_number(value: object) -> None:
    model, _ = FAMILIES[0]
    with pytest.raises(UserError, match=r"model_max_length: .* is not a number of tokens"):
        check_lengths(model, SimpleNamespace(model_max_length=value), 8)


@pytest.mark.parametrize("architectures", [None, [], ["PreTrainedModel"], ["BertConfig"], ["NoModel"]])
def test_a_configuration_that_names_no_model_is_refused(architectures: list[str] | None) -> None:
    with pytest.raises(
        UserError, match=r"^here: config.json: architectures: \w+ is not a model of transformers"
    ):
        model_class(Path("here"), hf.BertConfig(architectures=architectures))

"""Dropping layers before training."""

import pytest
import torch

from dsprune.errors import UserError
from dsprune.model.fit import keep_layers
from dsprune.model.gts import GtsConfig, GtsForEquations
from dsprune.testing.kinds import models
from dsprune.testing.kinds.models import byte_pairs, byte_pairs_without_padding, unigrams, word_piece

TEXTS = ["the cat sat on the mat"] * 8


def test_kept_layers_are_unchanged_and_the_folder_opens_again(tmp_path):
    model = models.bert(word_piece(TEXTS))
    second = model.bert.encoder.layer[1]
    kept = keep_layers(model, [1])
    assert list(kept.bert.encoder.layer) == [second]
    assert kept.config.num_hidden_layers == 1
    kept.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    tokens = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(again(tokens).logits, kept.eval()(tokens).logits)


def test_an_encoder_under_another_model_is_saved_with_the_kept_layers(tmp_path):
    encoder = models.roberta(byte_pairs(TEXTS))
    config = GtsConfig(encoder=encoder.config.to_dict(), decoder_size=8)
    kept = keep_layers(GtsForEquations(config, encoder), [1])
    assert kept.config.encoder.num_hidden_layers == 1
    kept.save_pretrained(tmp_path)
    again = GtsForEquations.from_pretrained(tmp_path)
    assert again.state_dict().keys() == kept.state_dict().keys()


def test_layers_of_a_decoder_are_renumbered():
    model = keep_layers(models.gpt2(byte_pairs_without_padding(TEXTS)), [1]).eval()
    assert model.transformer.h[0].attn.layer_idx == 0
    tokens = torch.tensor([[1, 2, 3]])
    assert model(tokens, use_cache=True).logits.shape[:2] == (1, 3)


def test_all_layers_are_kept_by_default():
    model = models.bert(word_piece(TEXTS))
    assert keep_layers(model, None).config.num_hidden_layers == 2


@pytest.mark.parametrize("layers", [[], [0, 2], [0, 0]])
def test_missing_layers_are_refused(layers):
    with pytest.raises(
        UserError, match=r"^model\.layers: \[.*\]: the model has layers 0 to 1: name some of them"
    ):
        keep_layers(models.bert(word_piece(TEXTS)), layers)


def test_a_model_of_two_stacks_is_refused():
    with pytest.raises(
        UserError, match=r"^model\.layers: MBartFor\w+ has 2 stacks of layers: leave this out"
    ):
        keep_layers(models.mbart(unigrams(TEXTS)), [0])

"""A Hugging Face model that uses a block twice must declare its tied weights."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from dsprune.errors import UserError
from dsprune.model.wrappers import check_ties


class Twice(BertForSequenceClassification):
    """A BERT that uses its first layer twice, without a declaration."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        layers = self.bert.encoder.layer
        layers[1] = layers[0]
        self.post_init()


class SaidTwice(Twice):
    """A BERT that declares it."""

    _tied_weights_keys = {r"bert\.encoder\.layer\.1": r"bert\.encoder\.layer\.0"}  # noqa: RUF012


def _config() -> BertConfig:
    return BertConfig(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        tie_word_embeddings=True,
    )


def test_a_block_used_twice_without_a_word_is_refused() -> None:
    name = "attention.self.query.weight"
    says = f"^model: bert.encoder.layer.1.{name} and bert.encoder.layer.0.{name} are one weight, .* of Twice does not"
    with pytest.raises(UserError, match=says):
        check_ties(Twice(_config()))


def test_a_block_used_twice_comes_back(tmp_path: Path) -> None:
    model = SaidTwice(_config())
    check_ties(model)
    model.save_pretrained(tmp_path)
    read = SaidTwice.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(read[name], value) for name, value in model.state_dict().items())


def test_any_other_module_may_use_a_block_twice() -> None:
    block = nn.Linear(2, 2)
    check_ties(nn.Sequential(block, block))

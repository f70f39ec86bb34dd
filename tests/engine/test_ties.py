"""Weights that a Hugging Face model uses twice come back from its folder, declared or not."""

import io
import os
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

import dsprune
from dsprune.commands.cli import run_command
from dsprune.model.ties import undeclared_ties
from dsprune.ranks.collectives import Comm
from dsprune.testing.engines import ds_config, make_recipe
from dsprune.testing.pool import RankPool

QUERIES = tuple(f"bert.encoder.layer.{number}.attention.self.query.weight" for number in (0, 1))


class Block(BertForSequenceClassification):
    """A BERT that uses its first layer twice, without a declaration."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        layers = self.bert.encoder.layer
        layers[1] = layers[0]
        self.post_init()


class Weight(BertForSequenceClassification):
    """A BERT whose layers share one weight, without a declaration."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        first, second = self.bert.encoder.layer
        second.attention.self.query.weight = first.attention.self.query.weight
        self.post_init()


class DeclaredBlock(Block):
    """A BERT that declares it."""

    _tied_weights_keys = {r"bert\.encoder\.layer\.1": r"bert\.encoder\.layer\.0"}  # noqa: RUF012


def model_of(kind: type[PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    return kind(BertConfig(vocab_size=9, tie_word_embeddings=True, **sizes))


def test_the_other_names_are_found_unless_the_model_declares_them() -> None:
    assert undeclared_ties(model_of(Weight)) == {QUERIES[1]: QUERIES[0]}
    assert undeclared_ties(model_of(Block))[QUERIES[1]] == QUERIES[0]
    assert undeclared_ties(model_of(DeclaredBlock)) == {}
    model = model_of(Weight)
    model._tied_weights_keys = {r"query\.weight": QUERIES[0]}
    assert undeclared_ties(model) == {}, "a pattern may match all names"
    block = nn.Linear(2, 2)
    assert undeclared_ties(nn.Sequential(block, block)) == {}


def save(comm: Comm, kind: type[PreTrainedModel], stage: int, folder: Path) -> str:
    """Save a new model and a checkpoint, and return what was said when the engine was made."""
    os.environ.update(LOCAL_RANK=str(comm.rank))
    recipe = make_recipe("fp32")
    with redirect_stderr(io.StringIO()) as said:
        engine, *_ = dsprune.initialize(model=model_of(kind), config=ds_config(stage, "fp32"), recipe=recipe)
    engine.save_model(folder / "saved")
    engine.save_checkpoint(folder / "checkpoints")
    return said.getvalue()


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("kind", [Block, Weight, DeclaredBlock])
def test_the_weights_come_back_from_a_saved_and_from_an_exported_folder(
    two_ranks: RankPool, kind: type[PreTrainedModel], stage: int, tmp_path: Path
) -> None:
    said, _ = two_ranks.run(2, save, kind, stage, tmp_path)
    warned = (
        f"{kind.__name__} does not declare: the Trainer and Accelerate cannot save it at ZeRO stage 3: add"
        in said
    )
    assert warned == (stage == 3 and kind is not DeclaredBlock), said
    exported = ["export", str(tmp_path / "checkpoints"), "--to", str(tmp_path / "exported")]
    assert run_command(exported) == 0
    weights = model_of(kind).state_dict()
    for folder in ("saved", "exported"):
        read = kind.from_pretrained(tmp_path / folder).state_dict()
        assert [name for name, value in weights.items() if not torch.equal(read[name], value)] == []

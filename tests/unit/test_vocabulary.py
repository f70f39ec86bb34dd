"""The used vocabulary: fewer embedding rows, otherwise the same model."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AlbertConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    EsmConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    RobertaConfig,
    T5Config,
    XLNetConfig,
)

from dsprune.errors import UserError
from dsprune.model.skeleton import without_weights
from dsprune.model.vocabulary import Vocabulary, num_missing, with_all_rows
from dsprune.ranks.ranks import Ranks
from dsprune.recipe import load_recipe
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, tiny_tokenizer, write_recipe
from dsprune.train.preflight import preflight

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
WIDE: dict[str, Any] = SIZES | {"intermediate_size": 32}

CONFIGS = [
    BertConfig(**WIDE),
    RobertaConfig(**WIDE, pad_token_id=1, max_position_embeddings=40),
    EsmConfig(**WIDE, pad_token_id=1, mask_token_id=4, max_position_embeddings=40),
    AlbertConfig(**WIDE, embedding_size=8),
    ElectraConfig(**WIDE, embedding_size=8),
    DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
    GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, pad_token_id=3),
    LlamaConfig(**WIDE, pad_token_id=3),
    XLNetConfig(vocab_size=50, d_model=16, n_layer=2, n_head=2, d_inner=32),
]


def model_of(config: PretrainedConfig, auto_class: Any = AutoModelForSequenceClassification) -> Any:
    torch.manual_seed(0)
    return auto_class.from_config(config).train()


def batch(config: PretrainedConfig) -> dict[str, torch.Tensor]:
    tokens = torch.tensor([[7, 9, 30, 41, 9, 12], [30, 31, 7, 8, 0, 0]])
    tokens[1, 4:] = config.pad_token_id
    return {
        "input_ids": tokens,
        "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]),
        "labels": torch.tensor([0, 1]),
    }


def losses(model: Any, data: dict[str, torch.Tensor], decay: float = 0.0) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=decay)
    found = []
    for step in range(5):
        torch.manual_seed(step)  # of the dropout
        loss = model(**data).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_training_is_the_same_and_the_saved_model_has_all_rows(
    config: PretrainedConfig, tmp_path: Path
) -> None:
    model, data = model_of(config), batch(config)
    short, tokens = copy.deepcopy(model), data["input_ids"].numpy().ravel()
    vocabulary = Vocabulary.used(short, tiny_tokenizer(), [tokens])
    assert set(tokens) <= set(vocabulary.kept.tolist())
    assert len(vocabulary.kept) < 20
    vocabulary.shorten(short)
    numbers = [sum(weight.numel() for weight in one.parameters()) for one in (model, short)]
    assert num_missing(short) == numbers[0] - numbers[1] > 0
    assert losses(short, data) == pytest.approx(losses(model, data), rel=1e-6)
    short.save_pretrained(tmp_path, state_dict=with_all_rows(short, short.state_dict()))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    for name, weight in model.state_dict().items():
        assert_close(again.state_dict()[name], weight, rtol=1e-5, atol=1e-6)


def test_decay_changes_rows_that_are_not_used_and_no_loss() -> None:
    model, data = model_of(BertConfig(**WIDE)), batch(BertConfig(**WIDE))
    short = copy.deepcopy(model)
    Vocabulary.used(short, tiny_tokenizer(), [data["input_ids"].numpy().ravel()]).shorten(short)
    assert losses(short, data, 0.1) == pytest.approx(losses(model, data, 0.1), rel=1e-6)


def test_a_token_that_was_left_out_is_an_error() -> None:
    short, data = model_of(BertConfig(**WIDE)), batch(BertConfig(**WIDE))
    Vocabulary.used(short, tiny_tokenizer(), [data["input_ids"].numpy().ravel()]).shorten(short)
    data["input_ids"][0, 0] = 45
    with pytest.raises(IndexError):
        short(**data)


@pytest.mark.parametrize(
    ("config", "auto_class"),
    [
        (BertConfig(**WIDE), AutoModelForMaskedLM),
        (GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2), AutoModelForCausalLM),
        (LlamaConfig(**WIDE, tie_word_embeddings=False), AutoModelForCausalLM),
        (BartConfig(vocab_size=50, d_model=16, encoder_layers=1, decoder_layers=1), AutoModelForSequenceClassification),
        (T5Config(vocab_size=50, d_model=16, d_kv=4, num_layers=1, num_heads=2), AutoModelForSequenceClassification),
    ],
)  # fmt: skip
def test_a_model_that_needs_all_rows_is_refused(config: PretrainedConfig, auto_class: Any) -> None:
    with torch.device("meta"):
        model = auto_class.from_config(config)
    with pytest.raises(
        UserError, match=r"^model\.vocabulary: value used: .* needs all rows for .*: set all$"
    ):
        Vocabulary.used(model, tiny_tokenizer(), [])


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path, vocabulary = tmp_path / "vocabulary.json", Vocabulary(9, np.array([0, 3, 8]))
    vocabulary.write(path)
    vocabulary.check_same(path)
    assert Vocabulary.read(path).kept.tolist() == [0, 3, 8]
    with pytest.raises(
        UserError, match=r"vocabulary\.json: 3 of 9 tokens, not the 2 of 9 that these data use"
    ):
        Vocabulary(9, np.array([0, 3])).check_same(path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"size": 9}',
        '{"size": 9, "kept": [3, 0]}',
        '{"size": 9, "kept": [9]}',
        '{"size": 9, "kept": "x"}',
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"vocabulary\.json: not a vocabulary of a run: .*: restore the file"):
        Vocabulary.read(path)


def test_the_model_of_another_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"the embedding has 50 rows and the run's has 9: give"):
        Vocabulary(9, np.array([0])).shorten(model_of(BertConfig(**WIDE)))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("vocabulary")
    model, data = tiny_bert(folder / "model", vocab_size=500), tiny_sentiment(folder / "data", 320)
    return str(write_recipe(folder / "recipe.yaml", model, data))


def test_what_a_recipe_trains_is_known_before_it_runs(recipe: str) -> None:
    prepared = preflight(load_recipe(recipe, ["model.vocabulary=used"]), Ranks(0, 0, 1))
    vocabulary = prepared.vocabulary
    data = [*prepared.data["input_ids"][:], *prepared.validation["input_ids"][:]]
    assert {token for tokens in data for token in tokens} <= set(vocabulary.kept.tolist())
    assert num_missing(prepared.model) == (500 - len(vocabulary.kept)) * 32
    with without_weights():
        assert preflight(load_recipe(recipe), Ranks(0, 0, 1)).vocabulary is None


def test_an_embedding_that_is_pruned_keeps_its_rows(recipe: str) -> None:
    overrides = ["model.vocabulary=used", "pruning.include=['*word_embeddings*']"]
    with pytest.raises(
        UserError, match=r"^model\.vocabulary: value used: .* bert\.embeddings\..* prunes: use only one"
    ):
        preflight(load_recipe(recipe, overrides), Ranks(0, 0, 1))

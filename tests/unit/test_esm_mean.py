"""The head of SMC-Bench for ESM: the mean of all tokens except the first, and models without support for it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import EsmForSequenceClassification, EsmModel

from dsprune.errors import UserError
from dsprune.model.esm_mean import EsmMeanForSequenceClassification
from dsprune.model.pretrained import load_saved
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.build import build_task
from dsprune.testing.kinds import models


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("esm")
    models.save(path / "model", models.esm, models.amino_acids(path))
    return path / "model"


def by_hand(model: EsmMeanForSequenceClassification, tokens: Tensor) -> Tensor:
    """The logits of one text without padding."""
    states = model.esm(tokens[None]).last_hidden_state[0, 1:]
    first, norm, _, last = model.classifier
    return last(functional.relu(norm(first(states.mean(dim=0)))))


@pytest.mark.parametrize("labels", [torch.tensor([0, 1]), torch.tensor([0.5, -1.0])])
def test_the_logits_are_of_the_mean_of_all_tokens_but_the_first(labels: Tensor, folder: Path) -> None:
    torch.manual_seed(0)
    num_labels = 1 if labels.is_floating_point() else 3
    config = EsmModel.from_pretrained(folder).config
    config.num_labels = num_labels
    model = EsmMeanForSequenceClassification.from_config(config).eval()
    tokens, mask = torch.randint(4, 20, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    tokens[1, 5:], mask[1, 5:] = config.pad_token_id, 0
    expected = torch.stack([by_hand(model, tokens[0]), by_hand(model, tokens[1, :5])])
    found = model(tokens, mask, labels)
    torch.testing.assert_close(found.logits, expected)
    loss = (
        functional.mse_loss(expected[:, 0], labels)
        if num_labels == 1
        else functional.cross_entropy(expected, labels)
    )
    torch.testing.assert_close(found.loss, loss)


def test_it_is_saved_and_loaded_and_found_without_the_setting(folder: Path, tmp_path: Path) -> None:
    tokenizer = models.amino_acids(tmp_path)
    task = build_task(TaskSettings(name="hotprotein-2", head="mean", max_length=16))
    made = task.build_model(str(folder), tokenizer)
    assert isinstance(made, EsmMeanForSequenceClassification)
    pretrained = EsmModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(value, pretrained[name]) for name, value in made.esm.state_dict().items())
    made.save_pretrained(tmp_path / "trained")
    plain = build_task(TaskSettings(name="hotprotein-2", max_length=16))
    for found in (load_saved(tmp_path / "trained"), plain.build_model(str(tmp_path / "trained"), tokenizer)):
        assert isinstance(found, EsmMeanForSequenceClassification)
        weights = found.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in made.state_dict().items())


def test_a_model_that_the_head_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    tokenizer = models.amino_acids(tmp_path)
    task = build_task(TaskSettings(name="hotprotein-2", head="mean", max_length=16))
    EsmForSequenceClassification.from_pretrained(folder).save_pretrained(tmp_path / "trained")
    with pytest.raises(UserError, match=r"^task.head: value mean: .*trained' has a head"):
        task.build_model(str(tmp_path / "trained"), tokenizer)
    models.save(tmp_path / "bert", models.bert, tokenizer)
    with pytest.raises(UserError, match=r"^task.head: value mean: .* is of the type bert"):
        task.build_model(str(tmp_path / "bert"), tokenizer)

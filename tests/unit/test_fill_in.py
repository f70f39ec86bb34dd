"""Options that fill a blank, scored by a masked language model: tokens, scores and loss by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerBase

from dsprune.errors import UserError
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.build import build_task
from dsprune.tasks.fill_in import margin_loss
from dsprune.tasks.task import Task
from dsprune.testing.kinds import models
from dsprune.testing.kinds.kind import jsonl
from dsprune.testing.kinds.models import byte_pairs, byte_pairs_without_padding

ROWS = [
    {"sentence": "The cat sat on it, _ is big.", "option1": "the big cat", "option2": "mat", "answer": "2"},
    {"sentence": "_ is big.", "option1": "cat", "option2": "a mat", "answer": "1"},
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return byte_pairs(["The cat sat on it, is big. the mat a"])


def task_of(tmp_path: Path, rows: list[dict[str, str]] = ROWS, **settings: Any) -> Task:
    file = jsonl(tmp_path / "t.jsonl", rows)
    settings = {"max_length": 40, "train": file, "validation": file, **settings}
    return build_task(TaskSettings(name="winogrande", loss="margin", **settings))


def test_the_tokens_of_each_option_are_masked(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    data = task_of(tmp_path).prepare("train", tokenizer)
    shown = []
    for tokens, targets in zip(data[0]["input_ids"], data[0]["targets"], strict=True):
        mask, option = tokenizer.mask_token_id, [target for target in targets if target != -100]
        assert [target != -100 for target in targets] == [token == mask for token in tokens]
        rest = [token for token in tokens if token != mask]
        shown.append((tokenizer.decode(option).strip(), tokenizer.decode(rest)))
    rest = "<s>The cat sat on it, is big.</s>"
    assert shown == [("the big cat", rest), ("mat", rest)]
    assert data["labels"][:] == [1, 0]


def test_scores_and_loss_are_those_of_each_option_alone(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    folder = str(models.save(tmp_path / "model", models.roberta, tokenizer))
    task = task_of(tmp_path)
    model = task.build_model(folder, tokenizer).eval()
    data = task.prepare("train", tokenizer)
    batch = task.collate(tokenizer, 8)([data[0], data[1]])
    assert batch["input_ids"].shape[:2] == (2, 2)
    assert batch["input_ids"].shape[2] % 8 == 0
    outputs = model(**batch)
    plain = AutoModelForMaskedLM.from_pretrained(folder).eval()
    plain.load_state_dict(model.state_dict())
    for row in range(2):
        for option in range(2):
            tokens, targets = (torch.tensor(data[row][name][option]) for name in ("input_ids", "targets"))
            logits = plain(input_ids=tokens[None]).logits[0].log_softmax(-1)
            places = (targets != -100).nonzero()[:, 0]
            expected = logits[places, targets[places]].mean()
            assert outputs.logits[row, option].item() == pytest.approx(expected.item(), abs=1e-5)
    (a, b), (c, d) = outputs.logits.tolist()
    loss = sum(-q + 5 * max(0, other - q + 0.4) for q, other in ((b, a), (c, d))) / 2
    assert outputs.loss.item() == pytest.approx(loss, rel=1e-5)
    assert task.predict(model, batch) == outputs.logits.argmax(-1).tolist()


def test_the_model_is_saved_as_the_masked_language_model_that_it_is(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    folder = str(models.save(tmp_path / "model", models.roberta, tokenizer))
    model = task_of(tmp_path).build_model(folder, tokenizer)
    model.save_pretrained(tmp_path / "saved")
    saved = AutoModelForMaskedLM.from_pretrained(tmp_path / "saved")
    assert saved.config.architectures == ["RobertaForMaskedLM"]
    assert saved.state_dict().keys() == model.state_dict().keys()


def test_the_margin_by_hand() -> None:
    scores = torch.tensor([[-1.0, -2.0], [-1.0, -1.2]], requires_grad=True)
    loss = margin_loss(scores, torch.tensor([0, 0]), alpha=5.0, beta=0.4)
    assert loss.item() == pytest.approx((1.0 + (1.0 + 5 * 0.2)) / 2)
    loss.backward()
    assert scores.grad.tolist() == [[-0.5, 0.0], [-3.0, 2.5]]


@pytest.mark.parametrize(
    ("row", "settings", "said"),
    [
        (ROWS[0], {"max_length": 6}, r"^task\.max_length: value 6: no room for the option 'the big cat'"),
        ({**ROWS[0], "sentence": "no blank"}, {}, r"row 1: the sentence has no blank, _"),
    ],
)
def test_sentences_that_are_refused(
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerBase,
    row: dict[str, str],
    settings: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(UserError, match=said):
        task_of(tmp_path, [row], **settings).prepare("train", tokenizer)


def test_a_tokenizer_without_a_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^task\.loss: value margin: .* has no mask token: leave it out"):
        task_of(tmp_path).prepare("train", byte_pairs_without_padding(["the cat"]))

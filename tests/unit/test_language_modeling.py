"""Language modelling: blocks and masks by hand, perplexity by its definition, and refused data."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from dsprune.errors import UserError
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.build import build_task
from dsprune.tasks.language_modeling import mask_tokens
from dsprune.tasks.token_logits import IGNORED, TokenCounts, linear_head
from dsprune.testing.kinds import models
from dsprune.testing.kinds.kind import SENTENCES, jsonl
from dsprune.testing.kinds.models import byte_pairs_without_padding, word_piece
from dsprune.train.evaluation import evaluate

WORDS = word_piece(SENTENCES)
BYTES = byte_pairs_without_padding(SENTENCES)
BYTES.pad_token = BYTES.eos_token


def task_on(tmp_path, name, lines=SENTENCES, **settings):
    file = tmp_path / "t.txt"
    file.write_text("\n".join(lines) + "\n\n")
    return build_task(TaskSettings(name=name, train=str(file), validation=str(file), **settings))


def test_causal_blocks_hold_every_token(tmp_path):
    blocks = task_on(tmp_path, "causal-language-modeling", max_length=7).prepare("train", BYTES)
    joined = [token for block in blocks["input_ids"][:] for token in block]
    assert (
        joined
        == [token for text in SENTENCES for token in (*BYTES(text)["input_ids"], BYTES.eos_token_id)][
            : len(joined)
        ]
    )
    assert blocks["length"][:-1] == [7] * (len(blocks) - 1)
    assert blocks["labels"][:] == blocks["input_ids"][:]


def test_masked_blocks_hold_every_token_and_mask_some(tmp_path):
    task = task_on(tmp_path, "masked-language-modeling", max_length=8, masked=0.3)
    blocks = task.prepare("train", WORDS)
    whole = [
        [label if label != IGNORED else token for token, label in zip(ids, labels, strict=True)]
        for ids, labels in zip(blocks["input_ids"][:], blocks["labels"][:], strict=True)
    ]
    joined = [token for block in whole for token in block]
    tokens = [token for text in SENTENCES for token in WORDS(text)["input_ids"]]
    assert joined == tokens[:-1]  # a block of a [SEP] alone is dropped
    special = set(WORDS.all_special_ids)
    for block, labels in zip(whole, blocks["labels"][:], strict=True):
        hidden = [token for token, label in zip(block, labels, strict=True) if label != IGNORED]
        assert len(hidden) == max(1, round(0.3 * sum(token not in special for token in block)))
        assert special.isdisjoint(hidden)
    assert task.prepare("train", WORDS).to_dict() == blocks.to_dict()


def test_copies_mask_other_tokens(tmp_path):
    task = task_on(tmp_path, "masked-language-modeling", max_length=16, copies=3)
    one, three = (
        task_on(tmp_path, "masked-language-modeling", max_length=16, copies=copies).prepare("train", WORDS)
        for copies in (1, 3)
    )
    assert three["labels"][: len(one)] == one["labels"][:]
    assert len(three) == 3 * len(one)
    assert three["labels"][len(one) : 2 * len(one)] != one["labels"][:]
    assert len(task.prepare("validation", WORDS)) == len(one)


def test_masks_are_as_in_bert():
    ids, special = np.arange(100, 200), np.zeros(100, dtype=bool)
    special[:20] = True
    shown, labels = mask_tokens(ids, special, 0.5, mask=7, vocabulary=50, generator=np.random.default_rng(0))
    hidden = labels != IGNORED
    assert hidden.sum() == 40
    assert not hidden[special].any()
    assert (labels[hidden] == ids[hidden]).all()
    assert (shown[~hidden] == ids[~hidden]).all()
    assert (shown == 7).sum() >= 32
    assert ((shown < 50) & hidden).sum() == 36  # 32 masks and 4 others
    assert (shown[hidden] == ids[hidden]).sum() == 4


def test_at_least_one_token_is_masked():
    _, labels = mask_tokens(
        np.array([5, 6]),
        np.array([True, False]),
        0.01,
        mask=7,
        vocabulary=9,
        generator=np.random.default_rng(0),
    )
    assert labels.tolist() == [IGNORED, 6]


def test_perplexity_is_over_all_tokens(tmp_path):
    task = task_on(tmp_path, "causal-language-modeling", max_length=9)
    path = str(models.save(tmp_path / "gpt2", models.gpt2, BYTES, seed=1))
    model = task.build_model(path, BYTES).eval()
    data = task.prepare("validation", BYTES)
    losses = [
        functional.cross_entropy(
            model(torch.tensor([ids])).logits[0, :-1], torch.tensor(ids[1:]), reduction="none"
        )
        for ids in data["input_ids"][:]
    ]
    found = evaluate(model, task, data, task.collate(BYTES), batch_size=4, device=torch.device("cpu"))
    assert found["perplexity"] == pytest.approx(math.exp(torch.cat(losses).mean().item()), rel=1e-5)
    assert list(found) == ["accuracy", "perplexity"]


def test_counts_add_up():
    total = TokenCounts.total([TokenCounts(1.0, 1, 2), TokenCounts(2.0, 0, 1)])
    assert total == (3.0, 1, 3)
    assert (total.perplexity, total.accuracy) == (pytest.approx(math.e), pytest.approx(1 / 3))
    assert TokenCounts(1e9, 0, 1).perplexity == math.inf


def test_a_head_with_a_later_transformation_is_not_linear():
    model = models.gpt2(BYTES)
    assert linear_head(model) == {"logits": model.lm_head}
    model.config.final_logit_softcapping = 30.0
    assert linear_head(model) == {}


def test_documents_of_jsonl_files(tmp_path):
    file = jsonl(tmp_path / "t.jsonl", [{"body": text} for text in SENTENCES])
    settings = TaskSettings(name="causal-language-modeling", train=file, validation=file, text="body")
    assert build_task(settings).load("train")["text"][:] == SENTENCES


def test_a_tokenizer_without_a_mask_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"^model\.tokenizer: GPT2Tokenizer has no mask token: choose a model for masked"
    ):
        task_on(tmp_path, "masked-language-modeling").prepare("train", BYTES)


def test_a_model_without_the_head_is_refused(tmp_path):
    task = task_on(tmp_path, "masked-language-modeling", max_length=16)
    path = str(models.save(tmp_path / "esm", models.roberta, WORDS))
    with pytest.raises(UserError, match=r"has no masked language-modelling head: fine-tune it first$"):
        task.build_model(path, WORDS, new_head=False)

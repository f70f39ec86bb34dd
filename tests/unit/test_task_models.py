"""The metrics of text classification, and which models fit a task."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
)

from dsprune.errors import UserError
from dsprune.model import pretrained
from dsprune.model.fit import padding_remarks
from dsprune.model.pretrained import load_config, load_model, load_tokenizer
from dsprune.model.skeleton import without_weights
from dsprune.recipe import Task as TaskSettings
from dsprune.recipe.sections import Model as ModelSettings
from dsprune.tasks.build import build_task
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, tiny_tokenizer
from dsprune.train.preflight import start_model


def naive_scores(predicted, labels, num_labels):
    """The metrics from their definitions."""
    pairs = list(zip(predicted, labels, strict=True))
    count = lambda p, y: sum(pair == (p, y) for pair in pairs)  # noqa: E731

    def f1(label):
        hits = count(label, label)
        return 2 * hits / (predicted.count(label) + labels.count(label) or 1)

    tp, tn, fp, fn = count(1, 1), count(0, 0), count(1, 0), count(0, 1)
    norm = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    return {
        "accuracy": sum(p == y for p, y in pairs) / len(pairs),
        "f1": f1(1),
        "f1_macro": sum(map(f1, range(num_labels))) / num_labels,
        "matthews": (tp * tn - fp * fn) / norm,
    }


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("sst2", ["accuracy"]),
        ("mrpc", ["f1", "accuracy"]),
        ("qqp", ["f1", "accuracy"]),
        ("cola", ["matthews", "accuracy"]),
    ],
)
def test_metrics_of_known_tasks_headline_first(name, metrics):
    labels, predicted = [0, 1, 1, 0, 1, 1, 0, 1, 1, 1], [0, 1, 0, 1, 1, 1, 0, 0, 1, 1]
    scores = build_task(TaskSettings(name=name)).score(predicted, Dataset.from_dict({"labels": labels}))
    expected = naive_scores(predicted, labels, 2)
    assert list(scores) == metrics
    assert scores == pytest.approx({metric: expected[metric] for metric in metrics})


def test_metrics_of_several_labels():
    task = replace(build_task(TaskSettings(name="text-classification")), known_labels=("a", "b", "c"))
    labels, predicted = [0, 1, 2, 2, 1, 0], [0, 2, 2, 1, 1, 1]
    scores = task.score(predicted, Dataset.from_dict({"labels": labels}))
    expected = naive_scores(predicted, labels, 3)
    assert list(scores) == ["accuracy", "f1_macro"]
    assert scores == pytest.approx({metric: expected[metric] for metric in scores})


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return str(tiny_bert(tmp_path_factory.mktemp("bert")))


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory):
    folder = tiny_sentiment(tmp_path_factory.mktemp("sentiment"), 8, 8)
    return TaskSettings(name="text-classification", train=str(folder / "train.csv"))


def test_the_model_has_a_head_for_the_labels_and_is_fp32(tmp_path, bert, sentiment):
    base = BertModel(BertConfig(**load_config(bert).to_dict())).to(torch.bfloat16)
    base.save_pretrained(tmp_path)
    model = build_task(sentiment).build_model(str(tmp_path), load_tokenizer(bert))
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert model.classifier.out_features == 2
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    torch.testing.assert_close(
        model.bert.pooler.dense.weight, base.pooler.dense.weight.float(), rtol=0, atol=0
    )


def test_a_model_without_a_head_is_refused_for_evaluation(tmp_path, bert, sentiment):
    BertModel(BertConfig(**load_config(bert).to_dict())).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"has no sequence-classification head: fine-tune it first"):
        build_task(sentiment).build_model(str(tmp_path), load_tokenizer(bert), new_head=False)


def test_a_model_of_other_labels_is_refused(bert):
    task = replace(build_task(TaskSettings(name="text-classification")), known_labels=("a", "b", "c"))
    with pytest.raises(
        UserError, match=r"was trained for 2 labels and the task has 3 \(a, b, c\).*model\.new_head"
    ):
        task.build_model(bert, load_tokenizer(bert))


@pytest.mark.parametrize("labels", [("a", "b", "c"), ("positive", "negative")], ids=["other", "order"])
def test_the_recipe_may_ask_for_a_new_head(bert, labels):
    task = replace(build_task(TaskSettings(name="text-classification")), known_labels=labels)
    settings, tokenizer = ModelSettings(path=bert, new_head=True), load_tokenizer(bert)
    with without_weights():
        assert start_model(task, settings, tokenizer).classifier.out_features == len(labels)
    torch.manual_seed(1)
    model, old = start_model(task, settings, tokenizer), BertForSequenceClassification.from_pretrained(bert)
    assert model.config.id2label == dict(enumerate(labels))
    for (name, ours), theirs in zip(model.bert.named_parameters(), old.bert.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert model.classifier.weight.shape == (len(labels), 32)
    assert not torch.equal(model.classifier.weight[:2], old.classifier.weight)
    assert model.classifier.weight.std() < 0.1, "drawn as the model draws its weights"


def test_a_model_that_generates_has_no_head_to_replace(bert):
    task = build_task(TaskSettings(name="translation", pairs=("en-de",)))
    with pytest.raises(UserError, match=r"^model\.new_head: true: .*no head to replace"):
        start_model(task, ModelSettings(path=bert, new_head=True), load_tokenizer(bert))


def test_a_head_of_another_problem_does_not_choose_the_loss(tmp_path, sentiment):
    path = str(tiny_bert(tmp_path, problem_type="multi_label_classification"))
    model = build_task(sentiment).build_model(path, load_tokenizer(path))
    assert model.config.problem_type == "single_label_classification"


def test_question_answering_starts_from_a_classifier_of_three_labels(tmp_path):
    path = str(tiny_bert(tmp_path, id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2}))
    task, tokenizer = build_task(TaskSettings(name="question-answering")), load_tokenizer(path)
    assert task.build_model(path, tokenizer).qa_outputs.out_features == 2
    assert task.new_model(load_config(path)).qa_outputs.out_features == 2


def test_a_model_with_the_labels_in_another_order_is_refused(tmp_path, sentiment):
    path = tiny_bert(
        tmp_path, id2label={0: "POSITIVE", 1: "NEGATIVE"}, label2id={"POSITIVE": 0, "NEGATIVE": 1}
    )
    with pytest.raises(
        UserError, match=r"in the order POSITIVE, NEGATIVE and the task in the order negative, pos"
    ):
        build_task(sentiment).build_model(str(path), load_tokenizer(str(path)))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            ["sports", "politics"],
            "was trained for the labels sports, politics: they are taken as the task's, negative, pos",
        ),
        (["Negative", "Positive"], ""),
        (["LABEL_0", "LABEL_1"], ""),
    ],
)
def test_labels_of_other_names_are_said(tmp_path, sentiment, capsys, names, says):
    path = str(
        tiny_bert(
            tmp_path,
            id2label=dict(enumerate(names)),
            label2id={name: number for number, name in enumerate(names)},
        )
    )
    build_task(sentiment).build_model(path, load_tokenizer(path), new_head=False)
    said = [line for line in capsys.readouterr().err.splitlines() if "labels" in line]
    assert len(said) == bool(says)
    assert all(f"model {path}: {says}" in line for line in said)


def test_labels_come_from_the_model_where_there_are_no_training_data(bert, sentiment):
    task = build_task(sentiment.model_copy(update={"train": None, "validation": sentiment.train}))
    assert task.for_model(load_config(bert)).labels == ("negative", "positive")
    assert build_task(sentiment).for_model(load_config(bert)).known_labels is None


def test_inputs_longer_than_the_model_takes_are_refused(bert, sentiment):
    with pytest.raises(UserError, match=r"^task\.max_length: 512: the model takes at most 128 tokens: lower"):
        build_task(sentiment.model_copy(update={"max_length": 512})).build_model(bert, load_tokenizer(bert))


def test_a_tokenizer_without_padding_pads_with_its_end_of_text(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token, tokenizer.eos_token = None, "."
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token == "."


def test_a_tokenizer_without_padding_and_end_of_text_is_refused(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token, tokenizer.eos_token = None, None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"^tokenizer '{tmp_path}': .*padding.*'pad_token'.*save"):
        load_tokenizer(str(tmp_path))


@pytest.fixture
def more_tokens(tmp_path):
    path = tiny_bert(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["pruned", "dense"])
    tokenizer.save_pretrained(path)
    return str(path)


def test_added_tokens_are_refused(more_tokens, sentiment):
    with pytest.raises(
        UserError, match=r"embeddings for 39 tokens, and its tokenizer has 41: .*resize_embeddings"
    ):
        build_task(sentiment).build_model(more_tokens, load_tokenizer(more_tokens))


def test_the_recipe_may_ask_for_embeddings_of_added_tokens(more_tokens, sentiment):
    settings, tokenizer = ModelSettings(path=more_tokens, resize_embeddings=True), load_tokenizer(more_tokens)
    task, old = build_task(sentiment), BertForSequenceClassification.from_pretrained(more_tokens)
    with without_weights():
        assert start_model(task, settings, tokenizer).config.vocab_size == 41
    model = start_model(task, settings, tokenizer)
    assert torch.equal(model.get_input_embeddings().weight[:39], old.get_input_embeddings().weight)
    assert model(**tokenizer("pruned film", return_tensors="pt")).logits.isfinite().all()


def test_the_model_gets_the_padding_token_of_its_tokenizer_which_is_said(tmp_path, sentiment):
    path = str(tiny_bert(tmp_path, pad_token_id=7))
    tokenizer = load_tokenizer(path)
    assert build_task(sentiment).build_model(path, tokenizer).config.pad_token_id == 0
    [remark] = padding_remarks(path, load_config(path), tokenizer)
    assert remark.startswith(
        f"model {path}: its padding token is 7, the tokenizer's 0 ([PAD]), which is used"
    )
    assert not list(padding_remarks(path, BertConfig(pad_token_id=0), tokenizer))


def test_an_adapter_is_refused_with_the_name_of_its_base(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "google-bert/bert-base"}')
    for load in (load_config, load_tokenizer):
        with pytest.raises(
            UserError, match=r"an adapter of PEFT, whose base model is 'google-bert/bert-base'.*merge"
        ):
            load(str(tmp_path))


def test_a_missing_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "is_offline_mode", lambda: True)
    says = r"^model '.*none': no such folder, nor a copy in the cache, and offline mode is on "
    with pytest.raises(UserError, match=says):
        load_config(str(tmp_path / "none"))
    with pytest.raises(
        UserError, match=r"^tokenizer '.*none': .*give a Hugging Face model folder or hub name$"
    ):
        load_tokenizer(str(tmp_path / "none"))


def test_a_model_that_a_shipped_recipe_makes_is_to_be_trained_first(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "is_offline_mode", lambda: True)
    for load, what in ((load_config, "model"), (load_tokenizer, "tokenizer")):
        says = rf"^{what} '.*sentiment-dense/model': .*: train it first: dsprune train sentiment-dense$"
        with pytest.raises(UserError, match=says):
            load(str(tmp_path / "runs" / "sentiment-dense" / "model"))


def test_a_path_that_is_no_name_of_the_hub_is_a_missing_folder(monkeypatch):
    monkeypatch.setattr(pretrained, "is_offline_mode", lambda: False)
    for load, what in ((load_config, "model"), (load_tokenizer, "tokenizer")):
        says = rf"^{what} 'no/such/folder': no such folder: give a Hugging Face model folder or hub name$"
        with pytest.raises(UserError, match=says):
            load("no/such/folder")


@pytest.mark.parametrize("load", [load_config, load_tokenizer])
def test_the_folder_of_a_run_is_no_model(load, tmp_path, bert):
    load_config(bert).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=rf"^model '{tmp_path}': .* of a run: .* {tmp_path / 'model'}$"):
        load(str(tmp_path))


def test_a_folder_without_tokenizer_files_is_refused(tmp_path, bert):
    load_config(bert).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"^tokenizer '.*': no tokenizer files there: .*model\.tokenizer$"):
        load_tokenizer(str(tmp_path))


def test_a_broken_model_is_refused(tmp_path, bert):
    load_config(bert).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(UserError, match=r"^model '.*': Error while deserializing header.*: use another copy"):
        load_model(AutoModelForSequenceClassification, str(tmp_path), tiny_tokenizer(), 8)


def test_a_model_that_is_code_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}'
    )
    with pytest.raises(UserError, match=r"^model '.*': .*contains custom code"):
        load_config(str(tmp_path))

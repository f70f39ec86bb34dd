"""Translation: language codes by hand, parallel files, BLEU, and refused data."""

import gzip
import json
import re

import pytest
import sacrebleu

from dsprune.errors import UserError
from dsprune.model.pretrained import load_tokenizer
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.build import build_task
from dsprune.testing.kinds import models
from dsprune.testing.kinds.kind import GERMAN, SENTENCES, parallel
from dsprune.testing.kinds.models import unigrams, word_piece

TOKENIZER = unigrams([*SENTENCES, *GERMAN] * 4)


def write(folder, split, **languages):
    for language, lines in languages.items():
        (folder / f"{split}.{language}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(folder / split)


def task_on(file, pairs=("en-de",), **settings):
    return build_task(TaskSettings(name="translation", train=file, validation=file, pairs=pairs, **settings))


def test_inputs_and_outputs_are_behind_the_codes_of_their_languages(tmp_path):
    task = task_on(write(tmp_path, "t", en=["the cat"], de=["die katze"]), ("en-de", "de-en"))
    there, back = task.prepare("train", TOKENIZER)
    english = [TOKENIZER.tokenize("the cat"), "en_XX"]
    german = [TOKENIZER.tokenize("die katze"), "de_DE"]
    for example, (source, code), (target, other) in ((there, english, german), (back, german, english)):
        assert TOKENIZER.convert_ids_to_tokens(example["input_ids"]) == [code, *source, "</s>"]
        assert TOKENIZER.convert_ids_to_tokens(example["labels"]) == [other, *target, "</s>"]
    assert [there["pair"], back["pair"]] == ["en-de", "de-en"]


def test_a_truncated_sentence_keeps_its_code_and_its_end(tmp_path):
    task = task_on(write(tmp_path, "t", en=SENTENCES, de=GERMAN), max_length=5, max_target=4)
    for example in task.prepare("train", TOKENIZER):
        for name, length, code in (("input_ids", 5, "en_XX"), ("labels", 4, "de_DE")):
            tokens = TOKENIZER.convert_ids_to_tokens(example[name])
            assert (len(tokens), tokens[0], tokens[-1]) == (length, code, "</s>")


@pytest.mark.parametrize(
    ("longest", "said"), [(4, "5 of 5 targets have 4 tokens or more: .* task.max_target"), (128, "$")]
)
def test_targets_that_are_cut_are_counted(tmp_path, longest, said):
    task = task_on(write(tmp_path, "t", en=SENTENCES, de=GERMAN), max_target=longest)
    assert re.match(said, task.targets(task.prepare("train", TOKENIZER)))


def test_a_model_of_one_pair_needs_no_codes(tmp_path):
    tokenizer = word_piece([*SENTENCES, *GERMAN])
    task = task_on(write(tmp_path, "t", en=["the cat"], de=["die katze"]))
    example = task.prepare("train", tokenizer)[0]
    assert example["input_ids"] == tokenizer("the cat")["input_ids"]
    assert example["labels"] == tokenizer("die katze")["input_ids"]
    assert task.for_tokenizer(tokenizer).num_given == 0
    assert task.for_tokenizer(TOKENIZER).num_given == 1


def test_compressed_and_other_files_read_the_same(tmp_path):
    plain = task_on(write(tmp_path, "t", en=["a\u2028b", "c"], de=["d", "e"])).load("train")
    assert plain["source"][:] == ["a\u2028b", "c"]
    (tmp_path / "z.en.gz").write_bytes(gzip.compress("a\u2028b\r\nc".encode()))
    (tmp_path / "z.de.gz").write_bytes(gzip.compress(b"d\ne\n"))
    assert task_on(str(tmp_path / "z")).load("train").to_dict() == plain.to_dict()
    rows = [{"translation": {"en": en, "de": de}} for en, de in (("a\u2028b", "d"), ("c", "e"))]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert task_on(str(tmp_path / "t.jsonl")).load("train").to_dict() == plain.to_dict()
    (tmp_path / "t.csv").write_text('en,de\n"a\u2028b",d\nc,e\n')
    assert task_on(str(tmp_path / "t.csv")).load("train").to_dict() == plain.to_dict()


def test_both_directions_of_opus_100_have_one_pair_of_files(tmp_path):
    folder = tmp_path / "supervised" / "de-en"
    folder.mkdir(parents=True)
    write(folder, "opus.de-en-dev", en=[f"{i}" for i in range(2000)], de=[f"{-i}" for i in range(2000)])
    settings = TaskSettings(name="opus-100", folder=str(tmp_path), pairs=("en-de", "de-en"))
    data = build_task(settings).load("validation")
    assert len(data) == 4000
    assert (data["source"][3], data["reference"][3]) == ("3", "-3")
    assert (data["source"][2003], data["reference"][2003]) == ("-3", "3")
    write(folder, "opus.de-en-dev", en=["a"], de=["b"])
    with pytest.raises(
        UserError, match=r"opus\.de-en-dev: 1 examples where OPUS-100, de-en has 2,000: fetch it again"
    ):
        build_task(settings).load("validation")


def test_scores_are_sacrebleus_for_each_direction(tmp_path):
    settings = TaskSettings(name="translation", **parallel(tmp_path))
    task = build_task(settings).for_tokenizer(TOKENIZER)
    data = task.prepare("validation", TOKENIZER)
    said = [
        text if i % 3 else "the cat sat on the mat at home" for i, text in enumerate(data["reference"][:])
    ]
    predictions = [[*TOKENIZER(text, add_special_tokens=False)["input_ids"], 2, 1, 1] for text in said]
    decoded = TOKENIZER.batch_decode(predictions, skip_special_tokens=True)
    expected = {
        pair: sacrebleu.corpus_bleu(
            [text for text, of in zip(decoded, data["pair"][:], strict=True) if of == pair],
            [[text for text, of in zip(data["reference"][:], data["pair"][:], strict=True) if of == pair]],
        ).score
        for pair in ("en-de", "de-en")
    }
    scores = task.score(predictions, data)
    assert scores == pytest.approx(
        {"bleu": sum(expected.values()) / 2, "bleu_en-de": expected["en-de"], "bleu_de-en": expected["de-en"]}
    )
    assert next(iter(scores)) == "bleu"
    assert 0 < scores["bleu"] < 100


def test_directions_are_needed(tmp_path):
    with pytest.raises(UserError, match=r"^task\.pairs: value missing: translation needs its directions"):
        task_on(write(tmp_path, "t", en=["a"], de=["b"]), ()).load("train")


def test_a_language_is_not_translated_into_itself(tmp_path):
    with pytest.raises(UserError, match=r"^task\.pairs: value en-en: "):
        task_on(str(tmp_path / "t.jsonl"), pairs=("en-de", "en-en"))
    with pytest.raises(UserError, match=r"^task\.pairs: value en-de: .* 2 times"):
        task_on(str(tmp_path / "t.jsonl"), pairs=("en-de", "de-en", "en-de"))


def test_languages_without_a_code_are_refused(tmp_path):
    file = write(tmp_path, "t", en=["a"], de=["b"], eo=["c"])
    with pytest.raises(
        UserError, match=r"^task\.pairs: the model's tokenizer has no code for eo: choose an mBART"
    ):
        task_on(file, ("en-eo",)).prepare("train", TOKENIZER)
    with pytest.raises(
        UserError, match=r"^task\.pairs: the model's tokenizer has no code for de, en: choose"
    ):
        task_on(file, ("en-de", "de-en")).prepare("train", word_piece(SENTENCES))


def test_files_of_unequal_length_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"^task\.train: .*t: 2 in en and 1 in de: the two files must have"):
        task_on(write(tmp_path, "t", en=["a", "b"], de=["c"])).load("train")


def test_a_missing_language_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"^task\.train: .*t: no file t\.de or t\.de\.gz: give the common part"
    ):
        task_on(write(tmp_path, "t", en=["a"])).load("train")


def test_files_that_are_not_text_are_refused(tmp_path):
    file = write(tmp_path, "t", en=["a"])
    (tmp_path / "t.de.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match=r"^task\.train: .*t: t\.de\.gz is not a text file: ."):
        task_on(file).load("train")


def test_a_row_without_a_sentence_is_refused(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"translation": {"en": "a", "fr": "b"}}\n')
    with pytest.raises(
        UserError, match=r"row 1: .* in column 'translation' is not a sentence in 'de': fix it$"
    ):
        task_on(str(tmp_path / "t.jsonl")).load("train")


def test_a_model_that_cannot_generate_is_refused(tmp_path):
    path = str(models.save(tmp_path / "bert", models.bert, word_piece(SENTENCES)))
    task = task_on(write(tmp_path, "t", en=["a"], de=["b"]), max_length=16)
    with pytest.raises(
        UserError, match=r"^model '.*bert': does not generate text: choose an encoder-decoder model"
    ):
        task.build_model(path, load_tokenizer(path))

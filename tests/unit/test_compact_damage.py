"""Compact folders that are damaged, of another program, or without a model are refused in one line."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import dsprune
from dsprune.checkpoint.compact.format import COMPACT
from dsprune.checkpoint.compact.writer import write_compact
from dsprune.errors import UserError
from dsprune.masks.manifest import MANIFEST
from dsprune.testing.damage import flip_a_bit, truncate
from dsprune.utils.files import sha256_of
from tests.unit.sparse import QUERY, sparse_bert

VALUES = "compact.safetensors"
MASKS = "masks-00000-of-00001.safetensors"


@pytest.fixture
def compact(tmp_path: Path) -> Path:
    """The compact form of a sparse BERT."""
    write_compact(sparse_bert(tmp_path / "model"), tmp_path / "compact")
    return tmp_path / "compact"


def refused(folder: Path) -> Iterator[str]:
    """The error of each way to read a compact folder."""
    for read in (dsprune.load_compact, dsprune.read_compact):
        with pytest.raises(UserError) as caught:
            read(folder)
        yield str(caught.value)


@pytest.mark.parametrize("file", [VALUES, MASKS, MANIFEST, "config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "missing, though compact.json lists it: use another copy of the folder"),
        (flip_a_bit, "damaged, its SHA-256 is not the one in compact.json: use another copy of the folder"),
        (truncate, "damaged, its SHA-256 is not the one in compact.json: use another copy of the folder"),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    compact: Path, file: str, damage: Callable[[Path], None], message: str
) -> None:
    damage(compact / file)
    assert set(refused(compact)) == {f"{compact / file}: {message}"}


RECORD = {"size": 0, "sha256": ""}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Invalid JSON"),
        ("[]", "Input should be an object"),
        ("[" * 5000, "Invalid JSON"),
        ("{}", "Field required"),
        (json.dumps({"format": 2, "dtype": None, "files": {}}), "Input should be 1"),
        (json.dumps({"format": 1, "dtype": "int8", "files": {}}), "Input should be 'fp16' or 'bf16'"),
        (json.dumps({"dtype": None, "files": {}, "more": 1}), "Extra inputs are not permitted"),
        *(
            (json.dumps({"dtype": None, "files": {name: RECORD}}), "String should match pattern")
            for name in ("../x", "/etc/passwd", "a/b", "a\\b", "..", ".", "")
        ),
    ],
)
def test_a_foreign_manifest_is_refused(compact: Path, text: str, reason: str) -> None:
    (compact / COMPACT).write_text(text)
    for error_line in refused(compact):
        assert error_line.startswith(f"{compact / COMPACT}: not a compact model of format 1 (")
        assert reason in error_line
        assert error_line.endswith("): export it again, or use another copy")


def test_a_folder_that_is_not_compact_is_refused(compact: Path) -> None:
    folder = compact.with_name("model")
    assert set(refused(folder)) == {
        f"{folder}: no compact.json: give a folder that dsprune export --compact wrote"
    }


def record_again(compact: Path) -> None:
    """Recompute the checksums, as if the folder had been written with these files."""
    values = json.loads((compact / COMPACT).read_text())
    masks = json.loads((compact / MANIFEST).read_text())
    for entry in masks["files"]:
        if (compact / entry["file"]).is_file():
            entry["sha256"] = sha256_of(compact / entry["file"])
    (compact / MANIFEST).write_text(json.dumps(masks))
    for name in values["files"]:
        path = compact / name
        values["files"][name] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    (compact / COMPACT).write_text(json.dumps(values))


def edit(compact: Path, file: str, change: Callable[[Any], None]) -> None:
    values = json.loads((compact / file).read_text())
    change(values)
    (compact / file).write_text(json.dumps(values))
    if file != COMPACT:
        record_again(compact)


@pytest.mark.parametrize("file", ["config.json", MANIFEST, MASKS])
def test_a_manifest_that_does_not_list_a_file_is_refused(compact: Path, file: str) -> None:
    edit(compact, COMPACT, lambda values: values["files"].pop(file))
    assert set(refused(compact)) == {
        f"{compact / COMPACT}: does not list {file}: use another copy of the folder"
    }


def test_a_file_of_another_format_is_refused(compact: Path) -> None:
    (compact / VALUES).write_bytes(b"\x80\x04 a pickle")
    record_again(compact)
    for error_line in refused(compact):
        assert error_line.startswith(f"{compact / VALUES}: cannot be read (")
        assert error_line.endswith("): use another copy of the model")


def without_query(tensors: dict[str, Tensor]) -> None:
    del tensors[QUERY]


def with_a_value_too_many(tensors: dict[str, Tensor]) -> None:
    tensors[QUERY] = torch.ones(8)


def with_values_in_two_dimensions(tensors: dict[str, Tensor]) -> None:
    tensors[QUERY] = tensors[QUERY].unsqueeze(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_query, f"no values of {QUERY}: use another copy of the folder"),
        (with_a_value_too_many, f"{QUERY} has shape [8], and its mask keeps 7 values: use another copy"),
        (with_values_in_two_dimensions, f"{QUERY} has shape [1, 7], and its mask keeps 7 values: use"),
    ],
)
def test_values_that_do_not_fit_the_masks_are_refused(
    compact: Path, change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    tensors = load_file(compact / VALUES)
    change(tensors)
    save_file(tensors, compact / VALUES)
    record_again(compact)
    assert all(message in error_line for error_line in refused(compact))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda masks: masks.update(digest=1), "the masks do not have the digest in dsprune.json"),
        (lambda masks: masks["tensors"][QUERY].update(shape=[1 << 40, 1 << 40]), "lists tensors whose masks have 151,"),
        (lambda masks: masks["tensors"][QUERY].update(shape=[0, 1 << 80]), "greater than 0"),
        (lambda masks: masks["tensors"][QUERY].update(shape=[-6, -6]), "greater than 0"),
        (lambda masks: masks["files"][0].update(file="../masks-0.safetensors"), "should match pattern"),
        (lambda masks: masks["files"][0].update(file="masks-/../../0.safetensors"), "should match pattern"),
        (lambda masks: masks.update(format=3), "Input should be 2"),
    ],
)  # fmt: skip
def test_masks_of_untrue_sizes_and_places_are_refused(
    compact: Path, change: Callable[[Any], None], message: str
) -> None:
    edit(compact, MANIFEST, change)
    assert all(message in error_line for error_line in refused(compact))


def test_masks_that_are_nested_without_end_are_refused(compact: Path) -> None:
    (compact / MANIFEST).write_text("[" * 100_000)
    values = json.loads((compact / COMPACT).read_text())
    values["files"][MANIFEST] = {"size": 100_000, "sha256": sha256_of(compact / MANIFEST)}
    (compact / COMPACT).write_text(json.dumps(values))
    assert all("dsprune.json: not a manifest of format 1 or 2 (" in text for text in refused(compact))


# ---- files that transformers has no model for


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"architectures": None}, "architectures: none is not a model"),
        ({"architectures": ["BertForNothing"]}, "BertForNothing is not a model"),
        ({"architectures": ["BertConfig"]}, "BertConfig is not a model"),
        ({"architectures": ["GPT2Model"]}, ""),
        ({"hidden_size": "six"}, "hidden_size"),
        ({"num_attention_heads": 5}, "heads"),
        ({"model_type": "none"}, "none"),
    ],
)
def test_a_config_that_makes_no_model_is_refused(compact: Path, values: dict[str, Any], reason: str) -> None:
    edit(compact, "config.json", lambda config: config.update(values))
    with pytest.raises(UserError) as caught:
        dsprune.load_compact(compact)
    assert str(compact) in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert QUERY in dsprune.read_compact(compact)


@pytest.mark.parametrize(
    ("values", "tensor"),
    [
        ({"num_hidden_layers": 1}, "bert.encoder.layer.1."),
        ({"num_hidden_layers": 3}, "bert.encoder.layer.2."),
        ({"vocab_size": 50}, "bert.embeddings.word_embeddings.weight"),
    ],
)
def test_a_model_with_other_tensors_is_refused(compact: Path, values: dict[str, Any], tensor: str) -> None:
    edit(compact, "config.json", lambda config: config.update(values))
    with pytest.raises(
        UserError, match=f"the tensors of BertForSequence.*, such as {tensor}.*: use the version"
    ):
        dsprune.load_compact(compact)

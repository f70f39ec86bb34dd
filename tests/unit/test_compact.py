"""The compact form of a sparse model: to disk, back into memory, and back to the usual model folder."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

import dsprune
from dsprune.checkpoint.compact.format import COMPACT
from dsprune.checkpoint.compact.writer import write_compact
from dsprune.commands.cli.main import run_command
from dsprune.errors import UserError
from dsprune.masks.manifest import MANIFEST
from dsprune.testing.commands import TIMEOUT
from dsprune.testing.kinds import models
from dsprune.testing.kinds.models import amino_acids, byte_pairs, byte_pairs_without_padding, unigrams
from tests.unit.sparse import QUERY, bert, change_weights, same, save_sparse, sparse_bert

TEXTS = ["the cat sat on the mat"] * 8
VALUES = "compact.safetensors"


def distilbert(_: Path) -> PreTrainedModel:
    sizes = {"vocab_size": 40, "dim": 10, "n_layers": 2, "n_heads": 2, "hidden_dim": 13}
    return DistilBertForSequenceClassification(DistilBertConfig(**sizes))


def t5(_: Path) -> PreTrainedModel:
    sizes = {"vocab_size": 40, "d_model": 10, "d_kv": 5, "num_heads": 2, "d_ff": 13, "num_layers": 2}
    return T5ForConditionalGeneration(T5Config(**sizes))


FAMILIES: dict[str, tuple[Callable[[Path], PreTrainedModel], Any]] = {
    "BERT": (lambda folder: bert(), AutoModelForSequenceClassification),
    "RoBERTa": (lambda folder: models.roberta(byte_pairs(TEXTS)), AutoModel),
    "DistilBERT": (distilbert, AutoModelForSequenceClassification),
    "T5": (t5, AutoModelForSeq2SeqLM),
    "GPT-2": (lambda folder: models.gpt2(byte_pairs_without_padding(TEXTS)), AutoModelForCausalLM),
    "mBART": (lambda folder: models.mbart(unigrams(TEXTS)), AutoModelForSeq2SeqLM),
    "ESM": (lambda folder: models.esm(amino_acids(folder)), AutoModel),
}


def round_trip(model: Path, folder: Path) -> Path:
    """The compact folder of a model folder, after a check that it expands to the same files."""
    compact, expanded = folder / "compact", folder / "expanded"
    assert run_command(["export", str(model), "--compact", "--to", str(compact)]) == 0
    assert run_command(["export", str(compact), "--expand", "--to", str(expanded)]) == 0
    assert run_command(["audit", str(expanded)]) == 0
    before, after = ({p.name: p.read_bytes() for p in f.iterdir()} for f in (model, expanded))
    assert after.keys() == before.keys()
    assert [name for name in before if before[name] != after[name] and not name.endswith(".index.json")] == []
    return compact


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sparse BERT."""
    return sparse_bert(tmp_path / "model")


@pytest.fixture
def compact(folder: Path, tmp_path: Path) -> Path:
    """Its compact form."""
    write_compact(folder, tmp_path / "compact")
    return tmp_path / "compact"


# ---- round trips


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_round_trip_is_the_same_bit_by_bit(tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    make, auto_class = FAMILIES[family]
    model = make(tmp_path).to(dtype)
    if model.can_generate():
        model.generation_config.max_new_tokens = 7
    saved = save_sparse(tmp_path / "model", model)
    compact = round_trip(saved, tmp_path)
    loaded, expected = dsprune.load_compact(compact), auto_class.from_pretrained(saved)
    assert type(loaded) is type(expected)
    assert same(loaded.state_dict(), expected.state_dict())
    assert same(auto_class.from_pretrained(tmp_path / "expanded").state_dict(), expected.state_dict())
    assert (loaded.dtype, loaded.training) == (dtype, False)
    assert loaded.name_or_path == str(compact)
    loaded.config.name_or_path = expected.config.name_or_path
    assert loaded.config.to_dict() == expected.config.to_dict()
    if model.can_generate():
        assert loaded.generation_config.to_dict() == expected.generation_config.to_dict()


def test_each_tensor_keeps_what_its_own_target_leaves(tmp_path: Path) -> None:
    targets = {"*query*": 0.0, "*key*": 1.0, "*value*": 0.5}
    compact = round_trip(save_sparse(tmp_path / "model", bert(), targets), tmp_path)
    stored = load_file(compact / VALUES)
    parts = {"query": 36, "key": 0, "value": 18}
    layer = QUERY.removesuffix("query.weight")
    assert {part: stored[f"{layer}{part}.weight"].shape for part in parts} == {
        part: (count,) for part, count in parts.items()
    }


def test_a_tied_weight_is_stored_once_and_tied_again(tmp_path: Path) -> None:
    model = models.gpt2(byte_pairs_without_padding(TEXTS))
    compact = round_trip(save_sparse(tmp_path / "model", model, include=["*wte.weight"]), tmp_path)
    assert "lm_head.weight" not in load_file(compact / VALUES)
    loaded: Any = dsprune.load_compact(compact)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    assert (loaded.lm_head.weight == 0).float().mean() == pytest.approx(0.8, abs=0.01)


def test_a_model_of_several_files_stays_one(tmp_path: Path) -> None:
    saved = save_sparse(tmp_path / "model", bert(hidden_size=64), max_shard_size="100KB")
    compact = round_trip(saved, tmp_path)
    count = len(list(saved.glob("model-*.safetensors")))
    assert count > 1
    assert len(list(compact.glob(f"compact-*-of-{count:05d}.safetensors"))) == count
    weight_maps = [
        json.loads((place / "model.safetensors.index.json").read_text())["weight_map"]
        for place in (saved, tmp_path / "expanded")
    ]
    assert weight_maps[0] == weight_maps[1]
    expected = BertForSequenceClassification.from_pretrained(saved).state_dict()
    assert same(BertForSequenceClassification.from_pretrained(tmp_path / "expanded").state_dict(), expected)


def test_masks_of_two_ranks_in_format_1_are_carried(tmp_path: Path) -> None:
    round_trip(Path(__file__).parents[1] / "data" / "masks-format-1", tmp_path)


def test_read_compact_gives_the_tensors_of_the_model_folder(folder: Path, compact: Path) -> None:
    assert same(dsprune.read_compact(str(compact)), load_file(folder / "model.safetensors"))


def test_a_compact_folder_needs_nothing_else(folder: Path, compact: Path) -> None:
    for file in ("training_args.bin", "optimizer.pt", ".hidden"):
        (folder / file).touch()
    write_compact(folder, compact.with_name("again"))
    files = sorted(path.name for path in compact.iterdir())
    assert files == sorted(path.name for path in compact.with_name("again").iterdir())
    assert {COMPACT, MANIFEST, VALUES, "config.json", "tokenizer_config.json"} < set(files)
    assert not any(file.startswith("model") for file in files)
    assert AutoTokenizer.from_pretrained(compact)("the film was good")["input_ids"]
    stored = load_file(compact / VALUES)
    assert stored[QUERY].shape == (36 - round(0.8 * 36),)
    assert stored["bert.embeddings.word_embeddings.weight"].shape == (43, 6)


@pytest.mark.parametrize("options", [[], ["--dtype", "bf16"]], ids=["exact", "bf16"])
def test_a_module_without_a_configuration_is_expanded_again(
    folder: Path, tmp_path: Path, options: list[str]
) -> None:
    (folder / "config.json").unlink()
    exact = load_file(folder / "model.safetensors")
    expected = {name: tensor.bfloat16() + 0.0 for name, tensor in exact.items()} if options else exact
    compact, expanded = tmp_path / "compact", tmp_path / "expanded"
    assert run_command(["export", str(folder), "--compact", "--to", str(compact), *options]) == 0
    assert run_command(["audit", str(compact)]) == 0
    assert run_command(["export", str(compact), "--expand", "--to", str(expanded)]) == 0
    assert same(load_file(expanded / "model.safetensors"), expected)
    assert same(dsprune.read_compact(compact), expected)
    with pytest.raises(UserError, match=r"model '.*compact': .*`model_type` key in its config\.json: give"):
        dsprune.load_compact(compact)


def test_a_compact_folder_is_audited(compact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["audit", str(compact)]) == 0
    assert "every invariant holds" in capsys.readouterr().out


# ---- 16 bits


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_all_weights_are_rounded_on_request(
    folder: Path, tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    change_weights(folder, lambda tensor: tensor * 1e-5)  # some become 0 in fp16, from either side
    compact, expanded = tmp_path / "compact", tmp_path / "expanded"
    assert run_command(["export", str(folder), "--compact", "--dtype", name, "--to", str(compact)]) == 0
    assert run_command(["export", str(compact), "--expand", "--to", str(expanded)]) == 0
    assert run_command(["audit", str(expanded)]) == 0
    exact = load_file(folder / "model.safetensors")
    expected = {key: tensor.to(dtype) + 0.0 for key, tensor in exact.items()}
    assert same(dsprune.read_compact(compact), expected)
    assert not any(torch.signbit(tensor[tensor == 0]).any() for tensor in expected.values())
    assert name == "bf16" or any((exact[key].to(dtype) == 0).sum() > (exact[key] == 0).sum() for key in exact)
    assert dsprune.load_compact(compact).dtype == dtype
    assert AutoModelForSequenceClassification.from_pretrained(expanded).dtype == dtype


def test_whole_numbers_are_not_rounded(folder: Path, tmp_path: Path) -> None:
    ids = torch.tensor([[1 << 20, 3]])
    save_file(load_file(folder / "model.safetensors") | {"ids": ids}, folder / "model.safetensors")
    write_compact(folder, tmp_path / "new", "fp16")
    assert same({"ids": dsprune.read_compact(tmp_path / "new")["ids"]}, {"ids": ids})


def test_a_value_that_16_bits_cannot_hold_is_refused(folder: Path, tmp_path: Path) -> None:
    change_weights(folder, lambda tensor: tensor * 1e8)
    with pytest.raises(UserError, match=r"--dtype: value fp16: \S+ has values beyond 65504: use"):
        write_compact(folder, tmp_path / "new", "fp16")
    write_compact(folder, tmp_path / "newer", "bf16")


def test_loading_needs_no_deepspeed(compact: Path) -> None:
    code = "import sys, dsprune; dsprune.load_compact(sys.argv[1]); print('deepspeed' in sys.modules)"
    command = [sys.executable, "-c", code, str(compact)]
    done = subprocess.run(
        command, env=os.environ, capture_output=True, text=True, check=True, timeout=TIMEOUT
    )
    assert done.stdout == "False\n"


def test_experts_that_transformers_stores_under_other_names_are_audited_and_not_compacted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"vocab_size": 40, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 3}
    model = save_sparse(tmp_path / "model", MixtralForCausalLM(MixtralConfig(**sizes, **heads)))
    assert run_command(["audit", str(model)]) == 0
    capsys.readouterr()
    assert run_command(["export", str(model), "--compact", "--to", str(tmp_path / "compact")]) == 2
    assert (
        "transformers stores model.layers.0.mlp.experts.gate_up_proj under other names"
        in capsys.readouterr().err
    )
    # Only w2.
    change_weights(model, lambda tensor: tensor.fill_(0.5) if tuple(tensor.shape) == (8, 12) else tensor)
    assert run_command(["audit", str(model)]) == 1
    assert "model.layers.0.mlp.experts.down_proj" in capsys.readouterr().err

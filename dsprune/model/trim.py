"""Save a model and its tokenizer with only the used tokens; both open with `from_pretrained`."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from dsprune.errors import UserError
from dsprune.model.vocabulary import Vocabulary, embedding_of, with_all_rows

__all__ = ["save_trimmed", "trimmed_tokenizer"]


def save_trimmed(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, folder: Path
) -> None:
    """Write a model folder with only the used tokens, which get new numbers.

    Raises:
        UserError: model or tokenizer cannot be trimmed.
    """
    small, kept = trimmed_tokenizer(tokenizer, vocabulary.kept)
    name, embedding = embedding_of(model)
    new = {int(token): number for number, token in enumerate(kept)}
    pad = None if embedding.padding_idx is None else int(vocabulary.kept[embedding.padding_idx])
    others = [module for module in model.modules() if module is not embedding]
    counts = any(getattr(one, "padding_idx", None) == pad for one in others)
    if pad is not None and new[pad] != pad and counts:
        raise UserError(
            f"--trimmed: {type(model).__name__} counts positions from its padding token: leave it out"
        )
    state: Mapping[str, Tensor] = with_all_rows(model, model.state_dict())
    for config in {id(one.config): one.config for one in others if isinstance(one, PreTrainedModel)}.values():
        if getattr(config, "vocab_size", None) == vocabulary.size:
            config.vocab_size = len(kept)
            _renumber(config, new)
    model.save_pretrained(
        folder, state_dict={**state, f"{name}.weight": state[f"{name}.weight"][kept].clone()}
    )
    small.save_pretrained(folder)


def trimmed_tokenizer(
    tokenizer: PreTrainedTokenizerBase, used: np.ndarray
) -> tuple[PreTrainedTokenizerBase, np.ndarray]:
    """Return a tokenizer with fewer tokens, and its tokens. It encodes texts of used tokens to the same tokens.

    It has the used tokens, ascending, and the intermediate tokens of byte pair encoding.

    Raises:
        UserError: the tokenizer is not WordPiece, byte pair encoding or Unigram.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules: dict[str, Any] = {} if backend is None else json.loads(backend.to_str())
    model = rules.get("model", {})
    kind = model.get("type")
    if kind not in ("WordPiece", "BPE", "Unigram"):
        raise UserError(f"--trimmed: {type(tokenizer).__name__} cannot be trimmed: leave it out")
    if kind == "Unigram":
        kept = np.union1d(used, [number for number in (model["unk_id"],) if number is not None])
        new = {int(token): number for number, token in enumerate(kept)}
        model["vocab"] = [model["vocab"][token] for token in kept if token < len(model["vocab"])]
        model["unk_id"] = new.get(model["unk_id"])
    else:
        vocabulary = model["vocab"]
        names = {number: name for name, number in vocabulary.items()}
        wanted = {names[int(token)] for token in used if int(token) in names}
        if kind == "BPE":
            model["merges"] = _needed_merges(model["merges"], wanted)
        kept = np.union1d(used, [vocabulary[name] for name in wanted])
        new = {int(token): number for number, token in enumerate(kept)}
        model["vocab"] = {name: new[number] for name, number in vocabulary.items() if number in new}
    rules["added_tokens"] = [
        one | {"id": new[one["id"]]} for one in rules["added_tokens"] if one["id"] in new
    ]
    rules["padding"] = rules["truncation"] = None
    _renumber_template(rules["post_processor"], new)
    return _wrapped(rules, tokenizer), kept


def _needed_merges(merges: Iterable[Any], wanted: set[str]) -> list[Any]:
    """Return the merges that form the wanted pieces, and add the intermediate pieces to `wanted`."""
    pairs = [(merge, *(merge.split(" ") if isinstance(merge, str) else merge)) for merge in merges]
    for _, left, right in reversed(pairs):  # a merge comes after the merges of its parts
        if left + right in wanted:
            wanted |= {left, right}
    return [merge for merge, left, right in pairs if left + right in wanted]


def _renumber(config: Any, new: Mapping[int, int]) -> None:
    """Renumber the tokens that a configuration names, in place."""
    for key, value in vars(config).items():
        if key.endswith("_token_id") and isinstance(value, int):
            setattr(config, key, new.get(value))


def _renumber_template(part: Any, new: Mapping[int, int]) -> None:
    """Renumber the special tokens around texts, in place."""
    if not isinstance(part, dict):
        return
    for inner in part.get("processors", []):
        _renumber_template(inner, new)
    for key in ("sep", "cls"):
        if key in part:
            part[key] = [part[key][0], new[part[key][1]]]
    if isinstance(part.get("special_tokens"), dict):
        for one in part["special_tokens"].values():
            one["ids"] = [new[number] for number in one["ids"]]


def _wrapped(rules: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(rules)),
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        **tokenizer.special_tokens_map,
    )

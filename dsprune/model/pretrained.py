"""Load configurations, tokenizers and models from Hugging Face folders or hub names."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import is_offline_mode
from huggingface_hub.errors import HFValidationError
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

import dsprune.model.gts  # registers its classes with the Auto classes  # noqa: F401
from dsprune.errors import UserError
from dsprune.model.config_checks import check_config, check_json, field_with
from dsprune.model.fingerprints import local_folder
from dsprune.model.fit import changes, check_lengths, fit_tokens
from dsprune.model.loaded import check_loaded
from dsprune.model.own import OWN_MODELS
from dsprune.model.skeleton import (
    build_skeleton,
    check_has_weights,
    check_stored_types,
    check_weight_indexes,
    is_without_weights,
)
from dsprune.utils.installation import shipped_names
from dsprune.utils.text import first_line

__all__ = ["Head", "load_config", "load_model", "load_saved", "load_tokenizer", "model_class"]

TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""The files of a tokenizer that people edit; reading tokenizer.json twice would delay each start."""

BUILDS = "use another copy of the model, or correct its config.json"
"""The way out if the configuration can be read but the model cannot be loaded."""

TELL_ALL: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
"""Settings with which `from_pretrained` tells of all weights that do not fit, for `check_loaded`."""


@dataclass(frozen=True)
class Head:
    """The model head of a kind of task.

    Attributes:
        auto_class: loads a model with this head.
        suffixes: endings of the names of model classes that have this head.
        name: name of the head in messages.
    """

    auto_class: Any
    suffixes: tuple[str, ...]
    name: str

    def is_in(self, config: PretrainedConfig) -> bool:
        """Return whether the model with this configuration has the head."""
        return any(name.endswith(self.suffixes) for name in config.architectures or ())

    def load(
        self,
        path: str,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        *,
        new_head: bool,
        **settings: Any,
    ) -> PreTrainedModel:
        """Load a model with this head.

        Args:
            path: folder of the model, or its name on the hub.
            tokenizer: the model's tokenizer.
            max_length: longest input in tokens that the model must accept.
            new_head: create a new head if the model has none. The recipe may replace the head of a model that has
                one, see `dsprune.model.fit`.
            settings: passed to `from_pretrained`.

        Raises:
            UserError: the model cannot be loaded, accepts only shorter inputs, or has no head and `new_head` is
                false.
        """
        if not new_head and not self.is_in(load_config(path)):
            raise UserError(f"model {path!r}: has no {self.name} head: fine-tune it first")
        model = load_model(self.auto_class, path, tokenizer, max_length, new_head=new_head, **settings)
        if changes().new_head and not is_without_weights():
            _renew_head(model, self.auto_class)
        return model

    def is_kept(self, config: PretrainedConfig) -> bool:
        """Return whether the model with this configuration has the head, and the recipe does not replace it."""
        return self.is_in(config) and not changes().new_head


def _renew_head(model: PreTrainedModel, auto_class: Any) -> None:
    """Initialize again all weights of a model outside of its base model."""
    new = dict(auto_class.from_config(model.config, dtype=torch.float32).named_parameters())
    kept = {id(parameter) for parameter in model.base_model.parameters()}
    for name, parameter in model.named_parameters():
        if id(parameter) not in kept:
            parameter.data.copy_(new[name])


def load_config(path: str) -> PretrainedConfig:
    """Load the configuration of a model.

    Raises:
        UserError: it cannot be loaded, or it names code that transformers would download and run, or weights in
            unexpected files.
    """
    _check_is_model(path)
    check_weight_indexes(local_folder(path))
    check_json(path, "config.json", "generation_config.json")
    way_out = "correct config.json" if Path(path, "config.json").is_file() else ""
    config: PretrainedConfig = _load(AutoConfig.from_pretrained, path, "model", way_out)
    check_config(path, config)
    return config


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model. Without a padding token (GPT-2, Llama) it pads with its end-of-text token."""
    _check_is_model(path)
    _check_has_tokenizer(Path(path))
    check_json(path, *TOKENIZER_FILES)
    tokenizer: PreTrainedTokenizerBase = _load(_tokenizer, path, "tokenizer")
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise UserError(
            f"tokenizer {path!r}: has only its {len(tokenizer)} special tokens; the file of its vocabulary, such as "
            f"tokenizer.json, may be missing: copy or download it again"
        )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(
                f"tokenizer {path!r}: has neither a padding token nor an end-of-text token, and batches need padding: "
                f"add one, tokenizer.add_special_tokens({{'pad_token': '<pad>'}}), and save it"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    auto_class: Any,
    path: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    new_head: bool = True,
    **settings: Any,
) -> PreTrainedModel:
    """Load a model in fp32, from files of any precision: DeepSpeed casts it, and masks are selected from fp32.

    Args:
        auto_class: one of transformers' auto classes.
        path: folder of the model, or its name on the hub.
        tokenizer: encodes for the model, which gets its padding token.
        max_length: longest input in tokens that the model must accept.
        new_head: whether the head may be new.
        settings: passed to `from_pretrained`.

    Raises:
        UserError: the model cannot be loaded, lacks weights, or does not fit the tokenizer or the length.
    """
    load_config(path)
    check_has_weights(path)
    load = partial(build_skeleton, auto_class) if is_without_weights() else auto_class.from_pretrained
    model: PreTrainedModel
    model, found = _load(
        load,
        path,
        "model",
        BUILDS if Path(path).is_dir() else "",
        **TELL_ALL,
        dtype=torch.float32,
        **settings,
    )
    check_loaded(path, model, found, new_head=new_head)
    check_stored_types(path, model)
    fit_tokens(model, path, tokenizer)
    check_lengths(model, tokenizer, max_length)
    return model


def load_saved(folder: Path) -> PreTrainedModel:
    """Load the model of a folder with its saved class and dtype."""
    saved = model_class(folder, load_config(str(folder)))
    transformers.utils.logging.disable_progress_bar()
    model: PreTrainedModel
    model, found = _load(saved.from_pretrained, str(folder), "model", BUILDS, **TELL_ALL, dtype="auto")
    check_loaded(str(folder), model, found, new_head=False)
    check_stored_types(str(folder), model)
    return model


def model_class(folder: Path, config: PretrainedConfig) -> Any:
    """Return the class of the model that the configuration in a folder was saved with.

    Raises:
        UserError: transformers does not have the class.
    """
    name = str((config.architectures or ["none"])[0])
    home = import_module(OWN_MODELS[name]) if name in OWN_MODELS else transformers
    found = getattr(home, name, None)
    is_model = isinstance(found, type) and issubclass(found, PreTrainedModel) and found is not PreTrainedModel
    if not is_model:
        raise UserError(
            f"{folder}: config.json: architectures: {name} is not a model of transformers: correct it"
        )
    return found


def _check_is_model(path: str) -> None:
    """Check that a folder is not that of a run (whose model is in a subfolder) or of an adapter."""
    if (
        not Path(path, "config.json").exists()
        and (model := Path(path, "model")).joinpath("config.json").is_file()
    ):
        raise UserError(f"model {path!r}: the folder of a run: give that of its model, {model}")
    file = local_folder(path) / "adapter_config.json"
    if file.is_file():
        try:
            base = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
        except (OSError, ValueError, LookupError, TypeError):
            base = "not named there"
        raise UserError(
            f"model {path!r}: an adapter of PEFT, whose base model is {base!r}: merge both with "
            f"PeftModel.from_pretrained(base, adapter).merge_and_unload(), save the result, and give its folder"
        )


def _check_has_tokenizer(folder: Path) -> None:
    # Without tokenizer files, transformers silently creates a tokenizer with an empty vocabulary.
    patterns = ("tokenizer*", "vocab*", "*.model")
    if folder.is_dir() and not any(file for pattern in patterns for file in folder.glob(pattern)):
        raise UserError(
            f"tokenizer {str(folder)!r}: no tokenizer files there: save one there, or set model.tokenizer"
        )


def _tokenizer(path: str, **settings: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer, and check that its vocabulary has the unknown token."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, **settings)
    try:
        _ = tokenizer.unk_token_id
    except RecursionError as error:  # transformers gives unknown tokens the number of this one
        raise UserError(
            f"tokenizer {path!r}: unk_token: {tokenizer.unk_token!r} is not in its vocabulary: correct "
            f"tokenizer_config.json"
        ) from error
    return tokenizer


def _load(
    from_pretrained: Callable[..., Any], path: str, what: str, way_out: str = "", **settings: Any
) -> Any:
    if Path(path).is_file():
        raise UserError(f"{what} {path!r}: is a file: give the folder that holds it")
    try:
        # Explicit, because transformers would otherwise prompt the user, and every rank would wait for an answer.
        return from_pretrained(path, trust_remote_code=False, **settings)
    except UserError:
        raise
    except Exception as error:  # many libraries read a model's files, and raise errors of many types
        if what == "tokenizer":
            check_json(path, "tokenizer.json", "vocab.json")  # which names a damaged file
            if Path(path, "config.json").is_file():
                # A tokenizer is looked up by the model's configuration: name that one if it is at fault.
                load_config(path)
        way_out = way_out or _training_of(Path(path)) or "give a Hugging Face model folder or hub name"
        reason = first_line(error)
        if isinstance(error, KeyError) and error.args and (field := field_with(path, error.args[0])):
            reason = f"config.json: {field}: no such choice as {error}"
        if "Weights only load failed" in reason:  # torch advises to run the code
            reason = "its .bin files hold more than weights, which could run code"
            way_out = "give a copy in safetensors"
        if isinstance(error.__cause__, HFValidationError):  # no model on the hub can have this name
            reason = "no such folder"
        if is_offline_mode() and not Path(path).exists():
            reason = "no such folder, nor a copy in the cache, and offline mode is on (HF_HUB_OFFLINE)"
        raise UserError(f"{what} {path!r}: {reason}: {way_out}") from error


def _training_of(folder: Path) -> str:
    """Return the command that trains the missing model of a shipped recipe; empty for any other model."""
    recipe = folder.parent.name
    is_missing = folder.name == "model" and recipe in shipped_names("recipes") and not folder.exists()
    return f"train it first: dsprune train {recipe}" if is_missing else ""

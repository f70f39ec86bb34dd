"""A recipe of SparseML or llm-compressor, as values of a recipe.

Modifiers and their defaults were read in SparseML's `src/sparseml/pytorch/sparsification`, front matter and `eval(...)`
in `src/sparseml/optim/helpers.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import isclose
from typing import Any

from dsprune.commands.convert.arithmetic import evaluate
from dsprune.commands.convert.notes import Notes
from dsprune.commands.convert.one_shot import ONE_SHOT, prune_once
from dsprune.commands.convert.pruning import METHODS_OF, prune
from dsprune.commands.convert.rate_pieces import Piece, cut, learning_rate, steps
from dsprune.commands.convert.source import Entry, read_source
from dsprune.errors import UserError
from dsprune.recipe.rate import RateCurve
from dsprune.recipe.section import LARGEST
from dsprune.utils.text import did_you_mean, short

__all__ = ["KNOWN", "convert_sparseml", "is_sparseml"]

_RATES = ("SetLearningRateModifier", "LearningRateFunctionModifier", "LearningRateModifier")
_COURSES = ("learning_rate", "lr_class", "lr_func")
_OUTPUTS = {"logits", "start_logits", "end_logits"}
_UNCHANGING = ("constant_logging", "log_types", "update_frequency")
_RENAMED = {
    "start": "start_epoch",
    "end": "end_epoch",
    "update": "update_frequency",
    "targets": "params",
    "mask_structure": "mask_type",
    "update_scheduler": "inter_func",
    "apply_globally": "global_sparsity",
}
_NOT_SAID = {
    **dict.fromkeys(
        ("QuantizationModifier", "GPTQModifier", "AWQModifier", "SmoothQuantModifier"),
        "dsprune does not quantize",
    ),
    "TrainableParamsModifier": "dsprune trains all trainable weights of the model",
    "PerLayerDistillationModifier": "dsprune distils outputs, not hidden states",
    "MFACPruningModifier": "dsprune has no such scores",
}


def is_sparseml(root: Entry) -> bool:
    """Return whether a file has modifiers, or stages with modifiers."""
    return _has_modifiers(root) or bool(_stages(root))


def convert_sparseml(text: str, name: str, notes: Notes) -> dict[str, Any]:
    """Return the values of a recipe with the settings of a recipe of SparseML.

    Raises:
        UserError: the file cannot be read, or has several stages.
    """
    modifiers = list(_modifiers(_evaluated(text, name)))
    total = max((modifier.number("end_epoch", 0) for modifier in modifiers), default=0)
    values: dict[str, Any] = {"budget": {"epochs": total}} if total > 0 else {}
    if total <= 0:
        notes.missing["budget.epochs"] = "length of the run in epochs"
    _length(modifiers, notes)
    pruned = prune([modifier for modifier in modifiers if modifier.name in METHODS_OF], total, notes)
    if pruned is not None:
        values["pruning"] = pruned.section
    _prune_once([modifier for modifier in modifiers if modifier.name in ONE_SHOT], values, notes)
    rates = [modifier for modifier in modifiers if modifier.name in _RATES]
    if rates:
        values["learning_rate"] = _learning_rate(rates, pruned.updates if pruned else [], total, notes)
    for modifier in modifiers:
        _CONVERTERS.get(modifier.name, _other)(modifier, values, notes)
        for key in _UNCHANGING:
            modifier.get(key)
        notes.leave_out_unread(modifier)
    return values


def _evaluated(text: str, name: str) -> Entry:
    """Read a file, with each `eval(...)` replaced by its value."""
    root = read_source(text, name)
    stages = _stages(root)
    if len(stages) > 1:
        names = ", ".join(entry.name for entry in stages)
        raise UserError(f"{name}: has the stages {names}: a recipe is one run: give a file with one")
    variables = {key: setting.value for entry in (root, *stages) for key, setting in entry.settings.items()}

    def value_of(text: str, line: int, *using: str) -> Any:
        if not (text.startswith("eval(") and text.endswith(")")):
            return text

        def variable(key: str) -> Any:
            if key in using:
                raise ValueError(f"holds {key!r}, which depends on itself")
            if key not in variables:
                raise ValueError(
                    f"holds {key!r}, which the file does not set: {did_you_mean(key, variables)}".rstrip(": ")
                )
            value = variables[key]
            return value_of(value, line, *using, key) if isinstance(value, str) else value

        try:
            return evaluate(text[5:-1], variable)
        except ValueError as error:
            raise UserError(f"{name}: line {line}: {short(text)} {error}") from None

    return read_source(text, name, value_of)


def _has_modifiers(entry: Entry) -> bool:
    return any("modifiers" in key for key in entry.settings)


def _stages(root: Entry) -> list[Entry]:
    """Return the sections that hold modifiers."""
    return [entry for entry in root.sections() if _has_modifiers(entry)]


def _modifiers(root: Entry) -> Iterator[Entry]:
    """Yield the modifiers of a file, in order; newer files list them by name, and rename some settings."""
    for entry in (root, *root.sections()):
        for key, setting in entry.settings.items():
            if "modifiers" not in key:
                continue
            found = setting.value.sections() if isinstance(setting.value, Entry) else setting.value or []
            for modifier in found if isinstance(found, list) else [found]:
                if not isinstance(modifier, Entry):
                    raise UserError(
                        f"{root.file}: line {setting.line}: {key} holds {short(modifier)}, which is not a modifier: "
                        "correct it"
                    )
                settings = {_RENAMED.get(key, key): setting for key, setting in modifier.settings.items()}
                yield replace(modifier, settings=settings)


def _prune_once(modifiers: list[Entry], values: dict[str, Any], notes: Notes) -> None:
    if "pruning" in values:
        for modifier in modifiers:
            notes.leave_out_all(modifier, "a run has one schedule of pruning, and another modifier has it")
    elif modifiers:
        values["pruning"] = prune_once(modifiers, notes)
        notes.missing["budget.epochs"] = "length of the recovery in epochs; the source does not train"


def _length(modifiers: list[Entry], notes: Notes) -> None:
    for modifier in modifiers:
        if modifier.name == "EpochRangeModifier" and modifier.number("start_epoch", 0) > 0:
            notes.leave_out(modifier, "start_epoch", "a run begins at 0")


def _learning_rate(rates: list[Entry], updates: list[float], total: float, notes: Notes) -> dict[str, Any]:
    """Return the section `learning_rate`."""
    rates = sorted(rates, key=_start)
    ends = [*(_start(modifier) for modifier in rates[1:]), total]
    pieces: list[Piece] = []
    for modifier, following in zip(rates, ends, strict=True):
        pieces += _pieces(modifier, following, notes)
        if pieces and pieces[-1].end < following:  # the rate stays constant
            last = pieces[-1]
            pieces.append(Piece(last.end, following, last.last, last.last))
    section = learning_rate(pieces, updates, total)
    if section is not None:
        if any(modifier.get("lr_func") == "cyclic_linear" for modifier in rates):
            notes.differs.append(
                (rates[0].line, "learning rate: the last step of a cycle is one step above its end")
            )
        if pieces[0].last > pieces[0].first and pieces[0].curve != section.get("curve", "linear"):
            notes.differ(rates[0], "lr_func", "the rise follows the curve of what comes after it")
        return section
    for modifier in rates:
        reason = (
            "a recipe cannot express this course of the learning rate: it has the default one, with this peak"
        )
        key = next((key for key in _COURSES if key in modifier.settings), "lr_func")
        notes.leave_out(modifier, key, reason)
    peak = max((max(piece.first, piece.last) for piece in pieces), default=0)
    return {"peak": peak} if peak > 0 else {}


def _start(modifier: Entry) -> float:
    return max(0.0, modifier.number("start_epoch", 0))


def _pieces(modifier: Entry, following: float, notes: Notes) -> list[Piece]:
    """Return the learning rate of a modifier."""
    start = _start(modifier)
    if modifier.get("param_groups"):
        notes.leave_out(
            modifier, "param_groups", "the recipe has one learning rate, apart from learning_rate.scale"
        )
    if modifier.name == "SetLearningRateModifier":
        modifier.get("end_epoch")
        rate = modifier.number("learning_rate", 0)
        return [Piece(start, following, rate, rate)]
    end = modifier.number("end_epoch", -1)
    end = end if end > 0 else following
    if modifier.name == "LearningRateModifier":
        return _scheduled(modifier, start, end)
    function, cycle = modifier.get("lr_func", "linear"), modifier.number("cycle_epochs", 1.0)
    curve: RateCurve = "cosine" if function == "cosine" else "linear"
    piece = Piece(start, end, modifier.number("init_lr", 0), modifier.number("final_lr", 0), curve)
    return cut(piece, cycle) if function == "cyclic_linear" and cycle > 0 else [piece]


def _scheduled(modifier: Entry, start: float, end: float) -> list[Piece]:
    """Return the learning rate of a torch scheduler, in epochs from `start`; empty if it cannot be converted."""
    first, settings = modifier.number("init_lr", 0), modifier.section("lr_kwargs")
    match modifier.get("lr_class"):
        case "MultiStepLR":
            at = [start, *settings.numbers("milestones")]
        case "StepLR" | "ExponentialLR" as name:
            every = settings.number("step_size", 1) if name == "StepLR" else 1
            at = [piece.start for piece in cut(Piece(start, end, 0, 0), every)] if every > 0 else []
        case "CosineAnnealingWarmRestarts":
            every, growth = settings.number("cycle_epochs", 0), settings.number("T_mult", 1)
            piece = Piece(start, end, first, settings.number("lr_min", 0), "cosine")
            cycles = cut(piece, every, growth) if every > 0 and 1 <= growth <= LARGEST else []
            lengths = [one.end - one.start for one in cycles]
            expected = [every, *(growth * length for length in lengths)]
            is_whole = cycles and isclose(lengths[-1], expected[len(cycles) - 1])
            return cycles if is_whole else []
        case _:
            return []
    factor = settings.number("gamma", 0)
    return steps(at, end, first, factor) if 0 < factor < 1 else []


def _distillation(modifier: Entry, values: dict[str, Any], notes: Notes) -> None:
    section: dict[str, Any] = {
        "hardness": modifier.number("hardness", 0.5),
        "temperature": modifier.number("temperature", 2.0),
    }
    values["distillation"] = section
    notes.missing["distillation.teacher"] = (
        "folder or hub name of the teacher; SparseML has it as --distill_teacher"
    )
    if not set(modifier.texts("distill_output_keys") or _OUTPUTS) <= _OUTPUTS:
        notes.leave_out(modifier, "distill_output_keys", "the logits of the task are distilled, nothing else")
    if modifier.get("teacher_input_keys"):
        notes.leave_out(modifier, "teacher_input_keys", "the teacher gets the inputs of the student")
    start = modifier.number("start_epoch", 0)
    if start > 0:
        span = f"{start:g} epochs"
        section["hardness"] = {"first": 0.0, "final": section["hardness"], "start": span, "end": span}
    if modifier.number("end_epoch", -1) not in (-1, values.get("budget", {}).get("epochs")):
        notes.leave_out(modifier, "end_epoch", "the teacher is used to the end of the run")


def _weight_decay(modifier: Entry, values: dict[str, Any], notes: Notes) -> None:
    if modifier.number("start_epoch", 0) > 0:
        notes.leave_out(modifier, "start_epoch", "the weight decay is the same from the start")
    if modifier.get("param_groups"):
        notes.leave_out(
            modifier, "param_groups", "biases and norms have no weight decay, all other weights have"
        )
    values["optimizer"] = {"weight_decay": modifier.number("weight_decay", 0)}


def _nothing(modifier: Entry, values: dict[str, Any], notes: Notes) -> None:
    """Do nothing for a modifier whose settings have been read."""


def _other(modifier: Entry, values: dict[str, Any], notes: Notes) -> None:
    notes.leave_out_all(modifier, _NOT_SAID.get(modifier.name, "not known to this command"))


def _trainable(modifier: Entry, values: dict[str, Any], notes: Notes) -> None:
    if not (modifier.get("trainable", True) and modifier.get("params") == "__ALL__"):
        _other(modifier, values, notes)


_CONVERTERS: dict[str, Callable[[Entry, dict[str, Any], Notes], None]] = {
    **dict.fromkeys((*METHODS_OF, *ONE_SHOT, *_RATES, "EpochRangeModifier"), _nothing),
    "DistillationModifier": _distillation,
    "SetWeightDecayModifier": _weight_decay,
    "TrainableParamsModifier": _trainable,
}

KNOWN = (*_CONVERTERS, *_NOT_SAID)
"""The modifiers that are converted, or named with the reason why they are not."""

"""A recipe of SparseML, as values of a recipe.

Modifiers and their defaults were read in SparseML's `src/sparseml/pytorch/sparsification`, front matter and `eval(...)`
in `src/sparseml/optim/helpers.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from dsprune.commands.convert.arithmetic import evaluate
from dsprune.commands.convert.pruning import METHODS_OF, prune
from dsprune.commands.convert.rate_pieces import Piece, cut, learning_rate
from dsprune.commands.convert.source import Entry, Notes, Source, read_source
from dsprune.errors import UserError
from dsprune.utils.text import did_you_mean, short

__all__ = ["KNOWN", "convert_sparseml", "is_sparseml"]

_RATES = ("SetLearningRateModifier", "LearningRateFunctionModifier")
_OUTPUTS = {"logits", "start_logits", "end_logits"}
_UNCHANGING = ("constant_logging", "log_types", "update_frequency")
_RENAMED = {"start": "start_epoch", "end": "end_epoch", "targets": "params"}
_NOT_SAID = {
    "QuantizationModifier": "dsprune does not quantize",
    "TrainableParamsModifier": "dsprune trains all weights that the model has trainable",
    "PerLayerDistillationModifier": "dsprune distils outputs, not hidden states",
    "MFACPruningModifier": "dsprune has no such scores",
    "LearningRateModifier": "a recipe has no such learning-rate schedule",
}


def is_sparseml(source: Source) -> bool:
    """Return whether a file holds modifiers, or stages of them."""
    return any(
        "modifiers" in key for entry in (source.root, *source.root.sections()) for key in entry.settings
    )


def convert_sparseml(text: str, name: str, notes: Notes) -> dict[str, Any]:
    """Return the values of a recipe that says what a recipe of SparseML says.

    Args:
        text: content of the file.
        name: its name.
        notes: gets what is missing, differs or is left out.

    Raises:
        UserError: it cannot be read, or has several stages.
    """
    modifiers = list(_modifiers(_evaluated(text, name), name))
    total = max((modifier.number("end_epoch", 0) for modifier in modifiers), default=0)
    values: dict[str, Any] = {"budget": {"epochs": total}} if total > 0 else {}
    if total <= 0:
        notes.missing["budget.epochs"] = "length of the run in epochs"
    _length(modifiers, notes)
    pruned = prune([modifier for modifier in modifiers if modifier.name in METHODS_OF], total, notes)
    if pruned is not None:
        values["pruning"] = pruned.section
    rates = [modifier for modifier in modifiers if modifier.name in _RATES]
    if rates:
        values["learning_rate"] = _learning_rate(rates, pruned.updates if pruned else [], total, notes)
    for modifier in modifiers:
        _CONVERTERS.get(modifier.name, _other)(modifier, values, notes)
        for key in _UNCHANGING:
            modifier.get(key)
        notes.leave_out_unread(modifier)
    return values


def _evaluated(text: str, name: str) -> Source:
    """Read a file, with its `eval(...)` replaced by their values."""
    first = read_source(text, name)
    _refuse_stages(first)
    stages = [entry for entry in first.root.sections() if any("modifiers" in key for key in entry.settings)]
    variables = {
        key: setting.value for entry in (first.root, *stages) for key, setting in entry.settings.items()
    }

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


def _refuse_stages(source: Source) -> None:
    stages = [
        entry.name for entry in source.root.sections() if any("modifiers" in key for key in entry.settings)
    ]
    if len(stages) > 1:
        raise UserError(
            f"{source.name}: has the stages {', '.join(stages)}: a recipe is one run: give a file with one"
        )


def _modifiers(source: Source, name: str) -> Iterator[Entry]:
    """Yield the modifiers of a file, in order; newer files have them by name, and other names for some settings."""
    for entry in (source.root, *source.root.sections()):
        for key, setting in entry.settings.items():
            if "modifiers" not in key:
                continue
            found = setting.value.sections() if isinstance(setting.value, Entry) else setting.value or []
            for modifier in found if isinstance(found, list) else [found]:
                if not isinstance(modifier, Entry):
                    raise UserError(
                        f"{name}: line {setting.line}: {key} holds {short(modifier)}: it holds modifiers"
                    )
                yield _with_known_names(modifier)


def _with_known_names(modifier: Entry) -> Entry:
    settings = {_RENAMED.get(key, key): setting for key, setting in modifier.settings.items()}
    return replace(modifier, settings=settings)


def _length(modifiers: list[Entry], notes: Notes) -> None:
    for modifier in modifiers:
        if modifier.name == "EpochRangeModifier" and modifier.number("start_epoch", 0) > 0:
            notes.leave_out(modifier, "start_epoch", "a run begins at 0")


def _learning_rate(rates: list[Entry], updates: list[float], total: float, notes: Notes) -> dict[str, Any]:
    """Return the section `learning_rate`."""
    rates = sorted(rates, key=lambda modifier: max(0, modifier.number("start_epoch", 0)))
    pieces: list[Piece] = []
    for number, modifier in enumerate(rates):
        following = rates[number + 1].number("start_epoch", 0) if number + 1 < len(rates) else total
        pieces += _pieces(modifier, following, notes)
    if pieces and pieces[-1].end < total:  # it stays where it is
        pieces.append(Piece(pieces[-1].end, total, pieces[-1].last, pieces[-1].last))
    section = learning_rate(pieces, updates, total)
    if section is not None:
        if any(modifier.get("lr_func") == "cyclic_linear" for modifier in rates):
            notes.differs.append(
                (rates[0].line, "learning rate: the last step of a cycle is one step above its end")
            )
        return section
    for modifier in rates:
        reason = "a recipe has no learning rate of this course: it has the default one, with this as its peak"
        notes.leave_out(
            modifier, "learning_rate" if "learning_rate" in modifier.settings else "lr_func", reason
        )
    peak = max((max(piece.first, piece.last) for piece in pieces), default=0)
    return {"peak": peak} if peak > 0 else {}


def _pieces(modifier: Entry, following: float, notes: Notes) -> list[Piece]:
    """Return the learning rate that a modifier sets."""
    start = max(0.0, modifier.number("start_epoch", 0))
    if modifier.get("param_groups"):
        notes.leave_out(
            modifier, "param_groups", "the recipe has one learning rate, apart from learning_rate.scale"
        )
    if modifier.name == "SetLearningRateModifier":
        modifier.get("end_epoch")
        return [
            Piece(start, following, modifier.number("learning_rate", 0), modifier.number("learning_rate", 0))
        ]
    end = modifier.number("end_epoch", -1)
    piece = Piece(
        start, end if end > 0 else following, modifier.number("init_lr", 0), modifier.number("final_lr", 0)
    )
    function, cycle = modifier.get("lr_func", "linear"), modifier.number("cycle_epochs", 1.0)
    if function == "cosine":
        notes.differ(modifier, "lr_func", "the decay is linear")
    return cut(piece, cycle) if function == "cyclic_linear" and cycle > 0 else [piece]


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
        notes.leave_out(modifier, "teacher_input_keys", "the teacher gets what the student gets")
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
    """Leave a modifier whose settings have been read."""


def _other(modifier: Entry, values: dict[str, Any], notes: Notes) -> None:
    if (
        modifier.name == "TrainableParamsModifier"
        and modifier.get("trainable", True)
        and modifier.get("params") == "__ALL__"
    ):
        return _nothing(modifier, values, notes)
    notes.leave_out_all(modifier, _NOT_SAID.get(modifier.name, "not known to this command"))
    return None


_CONVERTERS: dict[str, Callable[[Entry, dict[str, Any], Notes], None]] = {
    **dict.fromkeys((*METHODS_OF, *_RATES, "EpochRangeModifier"), _nothing),
    "DistillationModifier": _distillation,
    "SetWeightDecayModifier": _weight_decay,
}

KNOWN = (*_CONVERTERS, *_NOT_SAID)
"""The modifiers that are converted, or named with the reason why they are not."""

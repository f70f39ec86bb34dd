"""Registries of the names that recipes use: pruning methods, tasks, curves and scopes.

A built-in entry is the path of an object, or of a mapping that has the object under its name. It is imported on first
use, so that listing the names imports nothing. An installed package can add methods and tasks through an entry point of
the group `dsprune.methods` or `dsprune.tasks`, and code with `dsprune.register_method` or `dsprune.register_task`. A
recipe can only choose among these names; it cannot import anything else.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from dsprune.errors import UserError
from dsprune.utils.text import did_you_mean

__all__ = ["CURVES", "METHODS", "SCOPES", "TASKS", "Registry"]


class Registry:
    """Objects of one kind by name.

    Args:
        field: recipe field that holds a name, for messages.
        builtin: name to `module:attribute` of its object, or of a mapping with its object.
        group: entry point group through which installed packages add entries; None = no entry points.
        renamed: old name to new name, for messages.
    """

    def __init__(
        self,
        field: str,
        builtin: Mapping[str, str] | None = None,
        *,
        group: str | None = None,
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        self.field = field
        self._builtin, self._group = dict(builtin or {}), group
        self._renamed = renamed or {}
        self._registered: dict[str, Any] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._builtin, *self._offered(), *self._registered]))

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or name in self._registered or name in list(self)

    def register(self, name: str, entry: Any) -> None:
        """Add an entry, such as a pruning method or a task, under the name that recipes use.

        Args:
            name: the name in recipes.
            entry: for methods, a class derived from `dsprune.methods.method.Method`; for tasks, a function or class
                that takes the recipe's task section and returns a `dsprune.tasks.task.Task`.

        Raises:
            UserError: the name belongs to another entry.
        """
        if name in self and self._registered.get(name) is not entry:
            raise UserError(f"{self.field}: {name!r} is registered already: choose another name")
        self._registered[name] = entry

    def get(self, name: str) -> Any:
        """Return the object with this name.

        Raises:
            UserError: the name is unknown, or its package cannot be imported.
        """
        self.check(name)
        if name in self._registered:
            return self._registered[name]
        if name not in self._builtin:
            return self._load_offered(self._offered()[name])
        module, _, attribute = self._builtin[name].partition(":")
        entry = getattr(import_module(module), attribute)
        return entry[name] if isinstance(entry, Mapping) else entry

    def check(self, name: str) -> None:
        """Check that a name is known, without importing its object.

        Raises:
            UserError: the name is unknown; the message lists a similar name and all known names.
        """
        if name not in self:
            raise UserError(f"{self.field}: {self.problem(name)}")

    def problem(self, name: str) -> str:
        """Return the message for an unknown name: its new name, or the known names."""
        if name in self._renamed:
            return f"{name!r} was renamed: use {self._renamed[name]!r}"
        return f"there is no {name!r}: {did_you_mean(name, self)}choose one of {', '.join(self)}"

    def _offered(self) -> dict[str, EntryPoint]:
        found = entry_points(group=self._group) if self._group is not None else ()
        return {point.name: point for point in found if point.name not in self._builtin}

    def _load_offered(self, point: EntryPoint) -> Any:
        try:
            return point.load()
        except (ImportError, AttributeError) as error:
            package = point.dist.name if point.dist is not None else point.module
            raise UserError(
                f"{self.field}: {point.name!r}: {point.value} of the package {package} cannot be imported "
                f"({error}): install the package again, or choose another name"
            ) from error


METHODS = Registry(
    "pruning.method",
    {
        "magnitude": "dsprune.methods.magnitude:Magnitude",
        "fisher": "dsprune.methods.fisher:Fisher",
        "empirical-fisher": "dsprune.methods.empirical_fisher:EmpiricalFisher",
        "obert": "dsprune.methods.obert:OBert",
        "movement": "dsprune.methods.movement:Movement",
        "soft-movement": "dsprune.methods.soft_movement:SoftMovement",
        "snip": "dsprune.methods.snip:Snip",
        "wanda": "dsprune.methods.wanda:Wanda",
        "rigl": "dsprune.methods.rigl:RigL",
        "set": "dsprune.methods.set:Set",
        "random": "dsprune.methods.random:Random",
    },
    group="dsprune.methods",
)
"""Classes derived from `dsprune.methods.method.Method`, which are constructed without arguments."""

CURVES = Registry(
    "pruning.curve",
    {
        "cubic": "dsprune.schedule.curves:cubic",
        "linear": "dsprune.schedule.curves:linear",
        "exponential": "dsprune.schedule.curves:exponential",
        "constant": "dsprune.schedule.curves:at_target",
        "alternating": "dsprune.schedule.curves:at_target",
        "one-shot": "dsprune.schedule.curves:at_target",
    },
    renamed={"equal-work": "exponential"},
)
"""Functions (progress, first sparsity, target) -> sparsity; `one-shot` has a single mask update."""

SCOPES = Registry(
    "pruning.scope",
    {
        "global": "dsprune.selection.groups:GLOBAL",
        "uniform": "dsprune.selection.groups:UNIFORM",
        "normalized": "dsprune.selection.groups:NORMALIZED",
        "erk": "dsprune.selection.groups:ERK",
        "row": "dsprune.selection.groups:ROW",
    },
)
"""Instances of `dsprune.selection.groups.Scope`: which weights are ranked together."""

TASKS = Registry(
    "task.name",
    {
        "text-classification": "dsprune.tasks.text_classification:TextClassification",
        "regression": "dsprune.tasks.regression:Regression",
        "multiple-choice": "dsprune.tasks.multiple_choice:MultipleChoice",
        "masked-language-modeling": "dsprune.tasks.language_modeling:MaskedLanguageModeling",
        "causal-language-modeling": "dsprune.tasks.language_modeling:CausalLanguageModeling",
        **dict.fromkeys(
            ("question-answering", "squad"), "dsprune.tasks.question_answering:QUESTION_ANSWERING"
        ),
        **dict.fromkeys(("translation", "opus-100"), "dsprune.tasks.translation:TRANSLATION"),
        **dict.fromkeys(
            ("equation-generation", "mawps", "asdiv-a", "svamp"), "dsprune.tasks.arithmetic:EQUATIONS"
        ),
        **dict.fromkeys(
            ("cola", "mnli", "mnli-mm", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"),
            "dsprune.tasks.glue:GLUE",
        ),
        **dict.fromkeys(
            ("commonsense-qa", "winogrande", "race", "race-middle", "race-high"),
            "dsprune.tasks.commonsense:COMMONSENSE",
        ),
        **dict.fromkeys(("meltome", "hotprotein-2", "hotprotein-5"), "dsprune.tasks.proteins:PROTEINS"),
    },
    group="dsprune.tasks",
)
"""Functions that take the recipe's task section and return a `dsprune.tasks.task.Task`."""

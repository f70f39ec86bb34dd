"""The result of an analysis, and its file."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dsprune.errors import UserError
from dsprune.utils.files import replace_text

__all__ = ["FILE", "Analysis", "Finding", "LayerLoss", "UnusedRows", "read_analysis", "write_analysis"]

FILE = "analysis.json"


@dataclass(frozen=True)
class Finding:
    """What was measured of one component.

    Attributes:
        name: name of the component.
        patterns: globs that match its tensors and no others.
        num_weights: number of its weights.
        flops: operations of a forward pass that use them.
        is_prunable: whether the recipe prunes it.
        scores: the headline metric by sparsity, when only this component is pruned, in one shot.
        recovered: the same at the target after a short training; None = not measured.
    """

    name: str
    patterns: tuple[str, ...]
    num_weights: int
    flops: int
    is_prunable: bool
    scores: dict[float, float]
    recovered: float | None = None


@dataclass(frozen=True)
class LayerLoss:
    """The headline metric when only one component of one layer is pruned to the target."""

    layer: int
    component: str
    score: float


@dataclass(frozen=True)
class UnusedRows:
    """What leaving out the embedding rows of unused tokens saves and costs, with `model.vocabulary: used`.

    Attributes:
        num_kept: number of the rows whose tokens occur in the data, or are special.
        num_rows: number of all rows.
        num_weights: number of weights of the rows that are left out.
        score: the headline metric without them.
    """

    num_kept: int
    num_rows: int
    num_weights: int
    score: float


@dataclass(frozen=True)
class Analysis:
    """The result of an analysis.

    Attributes:
        recipe: name of the recipe.
        model: folder or hub name of the model.
        task: name of the task.
        metric: name of the headline metric; larger is better.
        dense: the metric of the unpruned model.
        num_examples: number of validation examples.
        length: sequence length at which operations are counted.
        target: target sparsity of the recipe.
        num_weights: number of weights of the model.
        flops: operations of a forward pass of one example, including those that use no weight.
        weight_bytes: bytes of a weight in the recipe's precision.
        recovery_steps: training steps before `recovered`; 0 = none.
        findings: the components.
        layers: the components of each layer alone, worst first; empty = not measured.
        origin: command, versions and seed.
        unused: the embedding rows of unused tokens; None = no rows can be left out of this model.
    """

    recipe: str
    model: str
    task: str
    metric: str
    dense: float
    num_examples: int
    length: int
    target: float
    num_weights: int
    flops: int
    weight_bytes: int
    recovery_steps: int
    findings: tuple[Finding, ...]
    layers: tuple[LayerLoss, ...]
    origin: str
    unused: UnusedRows | None = None

    @property
    def num_prunable(self) -> int:
        """Number of weights that the recipe prunes."""
        return sum(finding.num_weights for finding in self.findings if finding.is_prunable)

    def score(self, finding: Finding) -> float:
        """Return the metric with a component pruned to the target, after the recovery if there was one."""
        return finding.scores[self.target] if finding.recovered is None else finding.recovered

    def harm(self, finding: Finding) -> float:
        """Return the loss of the metric; at least 0, since a gain from pruning is taken for chance."""
        return max(0.0, self.dense - self.score(finding))


def write_analysis(analysis: Analysis, folder: Path) -> None:
    """Write `analysis.json`."""
    values = asdict(analysis)
    for finding in values["findings"]:
        finding["scores"] = list(finding["scores"].items())  # keys of JSON objects are strings
    replace_text(folder / FILE, json.dumps(values, indent=2) + "\n")


def read_analysis(folder: Path) -> Analysis:
    """Read `analysis.json`.

    Raises:
        UserError: the file holds no analysis.
    """
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        findings = tuple(_finding(finding) for finding in values["findings"])
        layers = tuple(LayerLoss(**layer) for layer in values["layers"])
        unused = UnusedRows(**values["unused"]) if values.get("unused") else None
        return replace(Analysis(**values), findings=findings, layers=layers, unused=unused)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder / FILE}: is no analysis ({error}): run dsprune analyze again") from error


def _finding(values: dict[str, Any]) -> Finding:
    scores = dict(values["scores"])
    return Finding(**{**values, "patterns": tuple(values["patterns"]), "scores": scores})

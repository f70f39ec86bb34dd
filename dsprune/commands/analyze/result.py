"""The result of an analysis, its file, and dsprune's rule for recommending components to prune."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from pydantic import ConfigDict

from dsprune.utils.files import replace_text
from dsprune.utils.records import Record, read_record
from dsprune.utils.text import percent

__all__ = [
    "FILE",
    "RULE",
    "Analysis",
    "Finding",
    "LayerLoss",
    "UnusedRows",
    "read_analysis",
    "without_nan",
    "write_analysis",
]

FILE = "analysis.json"

MIN_FLOPS_SAVED = 0.01
"""Smallest fraction of the forward operations that pruning a component must save."""

MAX_COST = 3.0
"""Highest cost of a component to prune, as a multiple of the median."""

RULE = (
    f"Rule (dsprune's own): the benefit of a component is the mean of the shares of the model's weights and of its "
    f"forward operations that become zero at the target; its cost is the loss of the metric for each per cent of "
    f"benefit, where a loss below one standard error counts as one standard error. A component stays dense when "
    f"pruning it saves less than {percent(MIN_FLOPS_SAVED, 0)} of the operations, or when it costs more than "
    f"{MAX_COST:g} times the median of the components that save more. A metric that is NaN, as a correlation with "
    f"constant outputs is, counts as 0."
)


class Measured(Record):
    """A record of measurements. A metric can be NaN: the correlation with constant outputs."""

    model_config = ConfigDict(ser_json_inf_nan="constants")


def without_nan(score: float) -> float:
    """Return a metric to compare with others: 0 for one that is NaN."""
    return 0.0 if math.isnan(score) else score


class Finding(Measured):
    """The measurements of one component.

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


class LayerLoss(Measured):
    """The headline metric when only one component of one layer is pruned to the target."""

    layer: int
    component: str
    score: float


class UnusedRows(Measured):
    """Savings and cost of leaving out the embedding rows of unused tokens, with `model.vocabulary: used`.

    Attributes:
        num_kept: number of rows of special tokens and of tokens in the data.
        num_rows: number of all rows.
        num_weights: number of weights of the rows that are left out.
        score: the headline metric without them.
    """

    num_kept: int
    num_rows: int
    num_weights: int
    score: float


class Analysis(Measured):
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
        unused: the embedding rows of unused tokens; None = no rows of this model can be left out.
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
        """Return the loss of the metric, at least 0: a gain from pruning is attributed to chance."""
        return max(0.0, self.dense - without_nan(self.score(finding)))

    def flops_saved(self, finding: Finding) -> float:
        """Return the fraction of the forward operations whose weights are zero at the target."""
        return self.target * finding.flops / self.flops

    def benefit(self, finding: Finding) -> float:
        """Return the mean of the fractions of weights and operations that are zero at the target."""
        weights = self.target * finding.num_weights / self.num_weights
        return (weights + self.flops_saved(finding)) / 2

    @property
    def noise(self) -> float:
        """One standard error of the metric, as a share of `num_examples`; smaller losses are not significant."""
        share = min(max(self.dense, 0.0), 1.0)
        return max(math.sqrt(share * (1 - share) / self.num_examples), 1 / self.num_examples)

    def cost(self, finding: Finding) -> float:
        """Return the loss of the metric in points, for each per cent of benefit."""
        return max(self.harm(finding), self.noise) / self.benefit(finding)

    def ordered(self) -> list[Finding]:
        """Return the components, the cheapest first."""
        return sorted(self.findings, key=self.cost)

    def left_dense(self) -> dict[str, str]:
        """Return the reason to leave a component dense, by its name; the others are worth pruning."""
        reasons: dict[str, str] = {}
        candidates = []
        for finding in self.findings:
            if self.flops_saved(finding) < MIN_FLOPS_SAVED:
                reasons[finding.name] = "saves no computation"
            else:
                candidates.append(finding)
        if candidates:
            limit = MAX_COST * statistics.median(self.cost(finding) for finding in candidates)
            for finding in candidates:
                if self.cost(finding) > limit:
                    reasons[finding.name] = "costs too much"
        return reasons

    def fragment(self) -> str:
        """Return the recommendation as a section of a recipe."""
        dense = self.left_dense()
        exclude = [f for f in self.findings if f.is_prunable and f.name in dense]
        include = [f for f in self.findings if not f.is_prunable and f.name not in dense]
        lines = ["pruning:", f"  sparsity: {self.target:g}"]
        for key, findings in (("include", include), ("exclude", exclude)):
            if findings:
                lines.append(f"  {key}:")
                lines += [f'    - "{pattern}"  # {f.name}' for f in findings for pattern in f.patterns]
        if not exclude and not include:
            lines.append("  # the analysis recommends the weights that are pruned by default")
        return "\n".join(lines) + "\n"

    def recommendation(self) -> str:
        """Return what to leave dense and what to prune, in one line."""
        dense = self.left_dense()
        worth = [finding.name for finding in self.findings if finding.name not in dense]
        return (
            f"Leave dense: {_listed([f'{name} ({why})' for name, why in dense.items()])}. "
            f"Prune: {_listed(worth)}."
        )


def write_analysis(analysis: Analysis, folder: Path) -> None:
    """Write `analysis.json`."""
    replace_text(folder / FILE, analysis.model_dump_json(indent=2) + "\n")


def read_analysis(folder: Path) -> Analysis:
    """Read `analysis.json`.

    Raises:
        UserError: the file holds no analysis.
    """
    return read_record(folder / FILE, Analysis, "an analysis", "run dsprune analyze again")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"

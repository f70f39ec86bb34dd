"""The rule that recommends which components to prune and which to leave dense; it is dsprune's own."""

import math
import statistics
from collections.abc import Sequence

from dsprune.commands.analyze.result import Analysis, Finding

__all__ = [
    "RULE", "benefit", "cost", "flops_saved", "fragment", "left_dense", "noise", "ordered", "recommendation",
]  # fmt: skip

MIN_FLOPS_SAVED = 0.01
"""Share of the forward operations that pruning a component must save at least."""

MAX_COST = 3.0
"""Highest cost of a component to prune, as a multiple of the median."""

RULE = (
    f"Rule (dsprune's own): the benefit of a component is the mean of the shares of the model's weights and of its "
    f"forward operations that become zero at the target; its cost is the loss of the metric for each per cent of "
    f"benefit, where a loss below one standard error counts as one standard error. A component stays dense when "
    f"pruning it saves less than {MIN_FLOPS_SAVED:.0%} of the operations, or when it costs more than {MAX_COST:g} "
    f"times the median of the components that save more."
)


def flops_saved(analysis: Analysis, finding: Finding) -> float:
    """Return the share of the forward operations whose weights are zero at the target."""
    return analysis.target * finding.flops / analysis.flops


def benefit(analysis: Analysis, finding: Finding) -> float:
    """Return the mean of the shares of weights and operations that are zero at the target."""
    weights = analysis.target * finding.num_weights / analysis.num_weights
    return (weights + flops_saved(analysis, finding)) / 2


def noise(analysis: Analysis) -> float:
    """Return one standard error of the metric, as a share of `num_examples`; smaller losses are not significant."""
    share = min(max(analysis.dense, 0.0), 1.0)
    return max(math.sqrt(share * (1 - share) / analysis.num_examples), 1 / analysis.num_examples)


def cost(analysis: Analysis, finding: Finding) -> float:
    """Return the loss of the metric in points, for each per cent of benefit."""
    return max(analysis.harm(finding), noise(analysis)) / benefit(analysis, finding)


def ordered(analysis: Analysis) -> list[Finding]:
    """Return the components, the cheapest first."""
    return sorted(analysis.findings, key=lambda finding: cost(analysis, finding))


def left_dense(analysis: Analysis) -> dict[str, str]:
    """Return the reason to leave a component dense, by its name; the others are worth pruning."""
    reasons: dict[str, str] = {}
    candidates = []
    for finding in analysis.findings:
        if flops_saved(analysis, finding) < MIN_FLOPS_SAVED:
            reasons[finding.name] = "saves no computation"
        else:
            candidates.append(finding)
    if candidates:
        limit = MAX_COST * statistics.median(cost(analysis, finding) for finding in candidates)
        for finding in candidates:
            if cost(analysis, finding) > limit:
                reasons[finding.name] = "costs too much"
    return reasons


def fragment(analysis: Analysis) -> str:
    """Return the recommendation as a section of a recipe."""
    dense = left_dense(analysis)
    exclude = [f for f in analysis.findings if f.is_prunable and f.name in dense]
    include = [f for f in analysis.findings if not f.is_prunable and f.name not in dense]
    lines = ["pruning:", f"  sparsity: {analysis.target:g}"]
    for key, findings in (("include", include), ("exclude", exclude)):
        if findings:
            lines.append(f"  {key}:")
            lines += [f'    - "{pattern}"  # {f.name}' for f in findings for pattern in f.patterns]
    if not exclude and not include:
        lines.append("  # the analysis recommends the weights that are pruned by default")
    return "\n".join(lines) + "\n"


def recommendation(analysis: Analysis) -> str:
    """Return what to leave dense and what to prune, in one line."""
    dense = left_dense(analysis)
    worth = [finding.name for finding in analysis.findings if finding.name not in dense]
    return (
        f"Leave dense: {_listed([f'{name} ({why})' for name, why in dense.items()])}. "
        f"Prune: {_listed(worth)}."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"

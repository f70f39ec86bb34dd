"""Benefit against harm, and what to leave dense: dsprune's own rule."""

import math
import statistics
from collections.abc import Sequence

from dsprune.commands.analyze.result import Analysis, Finding

__all__ = ["RULE", "benefit", "cost", "fragment", "left_dense", "noise", "ordered", "recommendation"]

LEAST_FLOPS = 0.01


HIGHEST_COST = 3.0


RULE = (
    f"Rule (dsprune's own): benefit is the mean of the shares of the model's weights and of its forward "
    f"operations that the zeros take away at the target; cost is the loss of the metric for each per cent of "
    f"benefit, a loss below one standard error counting as that. Dense stays what takes away less than "
    f"{LEAST_FLOPS:.0%} of the operations, and what costs more than {HIGHEST_COST:g} times the median of the rest."
)


def flops_saved(analysis: Analysis, finding: Finding) -> float:
    """Share of the forward operations that are done with zeros at the target."""
    return analysis.target * finding.flops / analysis.flops


def benefit(analysis: Analysis, finding: Finding) -> float:
    """Mean of the shares of weights and operations that pruning to the target takes away."""
    weights = analysis.target * finding.num_weights / analysis.num_weights
    return (weights + flops_saved(analysis, finding)) / 2


def noise(analysis: Analysis) -> float:
    """One standard error of the metric, as of a share of so many examples: what is below is not told apart."""
    share = min(max(analysis.dense, 0.0), 1.0)
    return max(math.sqrt(share * (1 - share) / analysis.num_examples), 1 / analysis.num_examples)


def cost(analysis: Analysis, finding: Finding) -> float:
    """Loss of the metric in points, for each per cent of benefit."""
    return max(analysis.harm(finding), noise(analysis)) / benefit(analysis, finding)


def ordered(analysis: Analysis) -> list[Finding]:
    """The components, the cheapest first."""
    return sorted(analysis.findings, key=lambda finding: cost(analysis, finding))


def left_dense(analysis: Analysis) -> dict[str, str]:
    """Why to leave a component dense, by its name; the others are worth pruning."""
    reasons: dict[str, str] = {}
    candidates = []
    for finding in analysis.findings:
        if flops_saved(analysis, finding) < LEAST_FLOPS:
            reasons[finding.name] = "saves no computation"
        else:
            candidates.append(finding)
    if candidates:
        limit = HIGHEST_COST * statistics.median(cost(analysis, finding) for finding in candidates)
        for finding in candidates:
            if cost(analysis, finding) > limit:
                reasons[finding.name] = "costs too much"
    return reasons


def fragment(analysis: Analysis) -> str:
    """The recommendation as a recipe's section, to be pasted."""
    dense = left_dense(analysis)
    exclude = [f for f in analysis.findings if f.is_prunable and f.name in dense]
    include = [f for f in analysis.findings if not f.is_prunable and f.name not in dense]
    lines = ["pruning:", f"  sparsity: {analysis.target:g}"]
    for key, findings in (("include", include), ("exclude", exclude)):
        if findings:
            lines.append(f"  {key}:")
            lines += [f'    - "{pattern}"  # {f.name}' for f in findings for pattern in f.patterns]
    if not exclude and not include:
        lines.append("  # what is pruned by default is what the analysis recommends")
    return "\n".join(lines) + "\n"


def recommendation(analysis: Analysis) -> str:
    """What to leave dense, in a sentence."""
    dense = left_dense(analysis)
    worth = [finding.name for finding in analysis.findings if finding.name not in dense]
    return (
        f"Leave dense: {_listed([f'{name} ({why})' for name, why in dense.items()])}. "
        f"Prune: {_listed(worth)}."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"

"""Labels of an axis with small or large numbers."""

from matplotlib.ticker import ScalarFormatter

__all__ = ["PowersOfTen"]

_RAISED = str.maketrans("-\N{MINUS SIGN}0123456789", "⁻⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class PowersOfTen(ScalarFormatter):
    """Numbers with their power of ten above the axis, as plain text, because matplotlib's formulas are slow to draw."""

    def __init__(self) -> None:
        super().__init__(useOffset=False, useMathText=False)
        self.set_powerlimits((-2, 2))

    def get_offset(self) -> str:
        """Return the power, to be written above the axis."""
        power = super().get_offset().partition("e")[2]  # of 1e-4
        return f"\N{MULTIPLICATION SIGN}10{power.translate(_RAISED)}" if power else ""

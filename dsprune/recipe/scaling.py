"""How the peak learning rate scales with the target sparsity: part of the schedule law, `dsprune.schedule.law`."""

from math import log1p

__all__ = ["log_compression", "scaled_peak"]


def log_compression(sparsity: float) -> float:
    """Return ln(1 / (1 - sparsity)), the log of the compression ratio.

    Examples:
        >>> round(log_compression(0.9), 4), round(log_compression(0.99), 4)
        (2.3026, 4.6052)
    """
    return -log1p(-sparsity)


def scaled_peak(dense: float, target: float) -> float:
    """Return the peak learning rate for a target sparsity, from the rate of dense fine-tuning.

    It is `dense * (1 + ln(1 / (1 - target)))`: the rate of dense fine-tuning at a target of 0, and 3.3 times that
    at 0.9. A sparse model has to move its remaining weights further, and has fewer of them.

    Examples:
        >>> [round(scaled_peak(1.0, target), 1) for target in (0.0, 0.5, 0.9, 0.97)]
        [1.0, 1.7, 3.3, 4.5]
    """
    return dense * (1 + log_compression(target))

"""What selection sends: the sizes of its messages, so that an event's cost is known before anything runs."""

__all__ = ["BINS", "BIN_BITS", "ROUNDS", "event_bytes"]

BIN_BITS = 8
BINS = 1 << BIN_BITS
ROUNDS = 32 // BIN_BITS  # histograms that narrow any range of 32-bit keys to one key


def event_bytes(num_groups: int, num_tensors: int, world_size: int, normalized: bool = False) -> int:
    """Bytes that one rank hands to collectives in one event; every number sent takes eight.

    More precisely: the guess of the brackets sends two searches a group, and the exact search is one more.
    Between them go a count of NaN a tensor, and the counts below and inside the bracket of a group; at the
    end the start and the ties of each shard. Normalised scores first need each tensor's largest and squares.
    A bracket misses its threshold about once in ten thousand events: then the counts are sent again.
    """
    if world_size == 1:
        return 0
    searches = 3 * num_groups * ROUNDS * BINS
    counts = num_tensors + 2 * num_groups
    ties = 2 * num_tensors
    scales = 2 * num_tensors if normalized else 0
    return 8 * (searches + counts + ties + scales)

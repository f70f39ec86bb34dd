"""What selection sends: the sizes of its messages, so that an event's cost is known before anything runs."""

__all__ = ["BINS", "BIN_BITS", "ROUNDS", "event_bytes"]

BIN_BITS = 8
BINS = 1 << BIN_BITS
ROUNDS = 32 // BIN_BITS  # histograms that narrow any range of 32-bit keys to one key


def event_bytes(num_groups: int, num_tensors: int, world_size: int) -> int:
    """Bytes that one rank hands to collectives in one event; every number sent is an int64.

    More precisely: the guess of the brackets sends two searches a group, and the exact search one. Between them
    go a count of NaN a tensor, and the counts below and inside the bracket of a group; at the end the start and
    the ties of each shard. A bracket misses its threshold about once in ten thousand events, and the counts are
    then sent twice.
    """
    if world_size == 1:
        return 0
    searches = 3 * num_groups * ROUNDS * BINS
    counts = num_tensors + 2 * num_groups
    ties = 2 * num_tensors
    return 8 * (searches + counts + ties)

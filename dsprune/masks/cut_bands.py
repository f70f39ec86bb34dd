"""The exchange that completes the bands that a boundary between two shards cuts.

A band is a run of consecutive weights that are decided together: a row, a block, or the tiles of some rows. The rank
with the first weight of a band decides for the whole band. It gets the values of the other weights from the ranks that
own them, and sends the result back.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from dsprune.masks.bits import num_bytes, pack
from dsprune.model.shard import Shard
from dsprune.ranks.collectives import Comm

__all__ = ["CutBands", "Values", "band_bytes", "slices_of"]

KEY_BYTES, MASK_BYTES, PLACE_BYTES = 4, 1, 16

CHUNK = 1 << 19
"""Number of weights at a time, in whole bands, unless a band has more."""

Values = Callable[[int, int], Tensor]
"""Returns the values of the weights `[first, last)` of a shard."""


def slices_of(values: Tensor) -> Values:
    """Return a function (first, last) -> `values[first:last]`."""
    return lambda first, last: values[first:last]


def band_bytes(bands: Iterable[int], world_size: int) -> int:
    """Return the most bytes that one rank passes to collectives in one mask update to complete bands.

    For each shard, these are its start and length, the keys of its first weights, and the masks of the weights after
    its end: both less than a band. `bands` is the number of weights of a band, by tensor.
    """
    if world_size == 1:
        return 0
    return sum(PLACE_BYTES + (band - 1) * (KEY_BYTES + MASK_BYTES) for band in bands)


class _Piece(NamedTuple):
    """The weights that a shard holds of a band that begins on another rank."""

    place: int
    sender: int
    owner: int
    length: int


class CutBands:
    """The parts of bands that begin on other ranks. Collective: every rank must create it.

    Args:
        shards: this rank's shards, one per tensor.
        bands: number of weights of a band, by tensor.
        comm: the ranks over which the tensors are sharded.
    """

    def __init__(self, shards: Sequence[Shard], bands: Sequence[int], comm: Comm) -> None:
        self._shards, self._bands, self._comm = shards, bands, comm
        own = torch.tensor([(shard.start, shard.numel) for shard in shards], dtype=torch.int64)
        table = comm.all_gather(own).transpose(0, 1).tolist()  # [tensors, ranks, 2]
        self._pieces = [
            piece
            for place, (band, row) in enumerate(zip(bands, table, strict=True))
            for piece in _pieces(place, band, row)
        ]
        lengths = {piece.place: piece.length for piece in self._pieces if piece.sender == comm.rank}
        self.heads = [lengths.get(place, 0) for place in range(len(shards))]

    def complete(self, values: Sequence[Values], chunk: int = CHUNK) -> list[Iterator[Tensor]]:
        """Return the values of the bands that begin in each shard, about `chunk` weights in whole bands at a time.

        Collective: every rank must call this.
        """
        tails = self.collect([each(0, head) for each, head in zip(values, self.heads, strict=True)])
        return [self.whole(place, *both, chunk) for place, both in enumerate(zip(values, tails, strict=True))]

    def whole(self, place: int, values: Values, tail: Tensor, chunk: int) -> Iterator[Tensor]:
        """Yield the result of `complete` for one shard, given the values after its end that complete its last band."""
        shard, band = self._shards[place], self._bands[place]
        stop, step = shard.start + shard.numel, max(1, chunk // band) * band
        begin, end = -(-shard.start // band) * band, -(-stop // band) * band
        for first in range(begin, end, step):
            last = min(first + step, end)
            part = values(first - shard.start, min(last, stop) - shard.start)
            yield torch.cat([part, tail]) if last > stop else part

    def spread(self, decided: Iterable[Tensor]) -> list[Tensor]:
        """Return the packed mask of each shard. Collective: every rank must call this.

        Args:
            decided: for each tensor, the boolean mask of the bands that begin in this rank's shard.
        """
        bits, tails = [], []
        for shard, head, mask in zip(self._shards, self.heads, decided, strict=True):
            own = shard.numel - head
            bits.append(pack(pad(mask[:own], (head, 0))))
            tails.append(mask[own:].byte())
        for row, begin in zip(bits, self.give_back(tails), strict=True):
            row[: num_bytes(begin.numel())] |= pack(begin.bool())
        return bits

    def share(self, decided: Iterable[Tensor]) -> list[Tensor]:
        """Return the values of each shard, given those of the bands that begin in it.

        Collective: every rank must call this.
        """
        own, tails = [], []
        for shard, head, values in zip(self._shards, self.heads, decided, strict=True):
            mine, tail = values.tensor_split([shard.numel - head])
            own.append(mine)
            tails.append(tail.clone())  # a view would keep all values until the end
        for place, begin in enumerate(self.give_back(tails)):
            if len(begin):
                own[place] = torch.cat([begin, own[place]])
        return own

    def collect(self, heads: Sequence[Tensor]) -> list[Tensor]:
        """Send the first `self.heads` values of each shard to the ranks where their bands begin.

        Collective: every rank must call this.

        Returns:
            For each tensor, the values after the end of this rank's shard that complete its last band.
        """
        rank = self._comm.rank
        sent = [(piece.owner, heads[piece.place]) for piece in self._pieces if piece.sender == rank]
        expected = [(piece.sender, piece) for piece in self._pieces if piece.owner == rank]
        return self._exchange(heads, sent, expected)

    def give_back(self, tails: Sequence[Tensor]) -> list[Tensor]:
        """Return results to the ranks that sent the values: the reverse of `collect`.

        Collective: every rank must call this.
        """
        rest, sent, rank = list(tails), [], self._comm.rank
        for piece in self._pieces:
            if piece.owner == rank:
                part, rest[piece.place] = rest[piece.place].tensor_split([piece.length])
                sent.append((piece.sender, part))
        expected = [(piece.owner, piece) for piece in self._pieces if piece.sender == rank]
        return self._exchange(tails, sent, expected)

    def _exchange(
        self,
        like: Sequence[Tensor],
        sent: Sequence[tuple[int, Tensor]],
        expected: Sequence[tuple[int, _Piece]],
    ) -> list[Tensor]:
        """Return the received values of each tensor, in the order of the pieces; a weight may have several values.

        Collective: every rank must call this.
        """
        found = [values[:0] for values in like]
        if not self._pieces:
            return found
        ranks, width = range(self._comm.size), found[0].shape[1:]
        messages = [torch.cat([found[0], *(part for to, part in sent if to == rank)]) for rank in ranks]
        sizes = [sum(piece.length for source, piece in expected if source == rank) for rank in ranks]
        flat = [message.flatten() for message in messages]
        received = [
            part.view(-1, *width)
            for part in self._comm.all_to_all(flat, [size * prod(width) for size in sizes])
        ]
        for source, piece in expected:
            part, received[source] = received[source].tensor_split([piece.length])
            found[piece.place] = torch.cat([found[piece.place], part.to(found[piece.place].device)])
        return found


def _pieces(place: int, band: int, shards: Sequence[tuple[int, int]]) -> Iterable[_Piece]:
    """Yield the pieces of one tensor in the order of its weights; `shards` has start and length by rank."""
    ordered = sorted((start, rank) for rank, (start, numel) in enumerate(shards) if numel)
    starts = [start for start, _ in ordered]
    for start, rank in ordered:
        if head := min(-start % band, shards[rank][1]):
            owner = ordered[bisect_right(starts, start - start % band) - 1][1]
            yield _Piece(place, rank, owner, head)

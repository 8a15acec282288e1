"""Membership of pairs in a set, such as of users and the songs that they heard: exact, behind a Bloom filter."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

BITS_PER_PAIR = 16
"""Least number of the filter's bits for each pair; at most twice as many."""
MOST_BITS = 31
"""Binary logarithm of the largest filter's bits, 256 MiB: places are int32."""
MULTIPLIER = 0x9E3779B1
"""2^32 over the golden ratio, odd: multiples of it are spread evenly (Knuth, The Art of Computer Programming, 6.4)."""


@dataclass(frozen=True)
class PairSet:
    """Set of pairs (first, second), to ask for many random ones at a time.

    Nearly all of them are not in the set. A bit tells most of these, with one access to a table that is small enough
    for a cache, where a binary search makes some twenty to a large one (Bloom, CACM 13(7), 1970, with one hash).
    """

    keys: Tensor
    """Keys first · n_second + second of the pairs, int64, sorted; at least one."""
    n_second: int
    bits: Tensor
    """Filter, uint8: the bit of every pair of the set is 1."""

    @classmethod
    def of(cls, keys: Tensor, n_second: int) -> Self:
        """Build the set from its sorted keys, on their device."""
        n_bits = min(max(math.ceil(math.log2(BITS_PER_PAIR * max(len(keys), 1))), 3), MOST_BITS)
        found = cls(keys, n_second, torch.zeros(1 << (n_bits - 3), dtype=torch.uint8, device=keys.device))
        for some in keys.split(1 << 22):
            place = found._place(some // n_second, some % n_second)
            for bit in range(8):
                found.bits[(place[place & 7 == bit] >> 3).long()] |= 1 << bit
        return found

    def contains(self, first: Tensor, second: Tensor) -> Tensor:
        """Flags of the pairs that are in the set; shapes broadcast."""
        place = self._place(first, second)
        flags = self.bits.index_select(0, (place >> 3).flatten()).view(place.shape)
        flags = (flags >> (place & 7).byte()).bitwise_and_(1).bool()
        maybe = flags.nonzero(as_tuple=True)
        keys = (first.long() * self.n_second).expand(place.shape)[maybe] + second.expand(place.shape)[maybe]
        found = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        flags[maybe] = self.keys[found] == keys
        return flags

    def _place(self, first: Tensor, second: Tensor) -> Tensor:
        """Place of each pair's bit, int32; shapes broadcast."""
        last = 8 * len(self.bits) - 1
        return (((first.long() * MULTIPLIER) & last).int() + second.int()) & last

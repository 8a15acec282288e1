"""Map from Yambda's ids to positions."""

import numpy as np
from numpy.typing import NDArray

from ms_assets.streams import starts

PAGE_BITS = 4
MOST_PAGES = 16
"""Most pages to an id, at 4 bytes each."""
UNKNOWN = -1


class IdMap:
    """Map from ids to their positions in an ascending list, by two array reads per id.

    Ids are divided into pages of 16; only pages that hold an id take memory, so memory depends on how ids are spread
    and not on how large they are: 40 MiB for a million ids among thirty million. Where there are more than 16 pages to
    an id, ids are searched by halves instead, which takes seven times as long: no id takes more than 128 bytes.

    Args:
        ids: distinct ids, ascending, below 2^32.
    """

    def __init__(self, ids: NDArray[np.integer]) -> None:
        page, place = _split(ids)
        self._scattered = ids if len(ids) and page[-1] > MOST_PAGES * len(ids) else None
        if self._scattered is not None:
            return
        used = page[starts(page)]
        # Page number 0 stays empty and stands for all pages without an id, and for those beyond the last.
        self._number = np.zeros(int(used[-1]) + 2 if len(used) else 1, np.int32)
        self._number[used] = np.arange(1, len(used) + 1)
        self._position = np.full((len(used) + 1) << PAGE_BITS, UNKNOWN, np.int32)
        self._position[(self._number[page].astype(np.int64) << PAGE_BITS) + place] = np.arange(len(ids))

    def positions(self, ids: NDArray[np.integer]) -> NDArray[np.int32]:
        """Position of each id, int32; ids in any order, repeated or not; -1 for an id that is not in the list."""
        # NumPy would turn unsigned 64-bit integers into floats.
        asked = ids.astype(np.int64) if ids.dtype == np.uint64 else ids
        if self._scattered is not None:
            found = np.minimum(np.searchsorted(self._scattered, asked), len(self._scattered) - 1).astype(np.int32)
            return np.where(self._scattered[found] == asked, found, np.int32(UNKNOWN))
        page, place = _split(asked)
        at = np.take(self._number, page, mode="clip")
        at <<= PAGE_BITS
        at += place.astype(np.int32)
        return np.take(self._position, at)


def _split(ids: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    return ids >> PAGE_BITS, ids & ((1 << PAGE_BITS) - 1)

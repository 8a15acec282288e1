"""From Yambda's ids to positions."""

import numpy as np
from numpy.typing import NDArray

PAGE_BITS = 6
UNKNOWN = -1


class IdMap:
    """The position of each id in an ascending list of ids, found by two array reads.

    Ids are cut into pages of 64; only pages that hold an id take memory, so what counts is how ids are spread and
    not how large they are. A million ids take some MiB when they are close together, 0.5 GiB at worst.

    Args:
        ids: ascending, distinct, below 2^32.
    """

    def __init__(self, ids: NDArray[np.integer]) -> None:
        page, place = _split(ids)
        used, number = np.unique(page, return_inverse=True)
        # Page number 0 stays empty; it stands for all pages that hold no id, and for those beyond the last.
        self._number = np.zeros(int(used[-1]) + 2 if len(used) else 1, np.int32)
        self._number[used] = np.arange(1, len(used) + 1)
        self._position = np.full((len(used) + 1) << PAGE_BITS, UNKNOWN, np.int32)
        self._position[((number + 1) << PAGE_BITS) + place] = np.arange(len(ids))

    def positions(self, ids: NDArray[np.integer]) -> NDArray[np.int32]:
        """The position of each id, in any order and as often as wanted; -1 for one that is not in the list."""
        # Beyond 64 bits with a sign numpy would count in floats.
        page, place = _split(ids.astype(np.int64) if ids.dtype == np.uint64 else ids)
        return self._position[(self._number[np.minimum(page, len(self._number) - 1)] << PAGE_BITS) + place]


def _split(ids: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    return ids >> PAGE_BITS, ids & ((1 << PAGE_BITS) - 1)

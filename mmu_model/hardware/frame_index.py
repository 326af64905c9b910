"""Where each frame's words are, for many frames at once."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

_DIRECT_FRAMES: Final = 1 << 20
_REGION_SHIFT: Final = 16


class FrameIndex:
    """Finds the words of frames, by one table if all frames lie below 4 GiB, else by two.

    Parameters
    ----------
    bases :
        Frame number -> index of its first word.

    """

    def __init__(self, bases: Mapping[int, int]) -> None:
        pfns = np.fromiter(bases.keys(), np.int64, len(bases))
        values = np.fromiter(bases.values(), np.int64, len(bases))
        end = int(pfns.max(initial=0)) + 1
        self._regions: NDArray[np.int64] | None = None
        if end <= _DIRECT_FRAMES:
            self._bases = np.zeros(end + 1, np.int64)
            self._bases[pfns] = values
            return
        regions, place = np.unique(pfns >> _REGION_SHIFT, return_inverse=True)
        self._regions = np.zeros((end >> _REGION_SHIFT) + 2, np.int64)
        self._regions[regions] = (np.arange(len(regions)) + 1) << _REGION_SHIFT
        self._bases = np.zeros((len(regions) + 1) << _REGION_SHIFT, np.int64)
        self._bases[(place + 1) << _REGION_SHIFT | _offset(pfns)] = values

    def base(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """The index of the first word of each frame; 0, the frame of zeroes, for one that does not exist."""
        if self._regions is not None:
            # Whatever lies beyond the last frame finds the last region of the table, which is empty.
            pfns = self._regions.take(pfns >> _REGION_SHIFT, mode="clip") | _offset(pfns)
        return self._bases.take(pfns, mode="clip")


def _offset(pfns: NDArray[np.int64]) -> NDArray[np.int64]:
    return pfns & (1 << _REGION_SHIFT) - 1

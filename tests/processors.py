"""What results depend on the processor that computes them, to the last digits."""

from pathlib import Path

import numpy as np


def has_avx512():
    """Whether the processor has the instructions that exact results were recorded with.

    With them, convolutions add up in the same order in slices of any size, and NumPy's functions
    round as they did. On older processors the last digits may differ.
    """
    return " avx512f " in Path("/proc/cpuinfo").read_text()


def assert_same_but_for_order(actual, expected):
    """Equal to the bit, or where sums have another order, but for their rounding."""
    if has_avx512():
        np.testing.assert_array_equal(actual, expected)
    else:
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)

"""What results depend on the processor that computes them, to the last digits."""

from pathlib import Path

import numpy as np


def sums_in_one_order():
    """Whether convolutions add up in the same order in slices of any size.

    They do with AVX-512; on older processors the order depends on the size.
    """
    return " avx512f " in Path("/proc/cpuinfo").read_text()


def assert_same_but_for_order(actual, expected):
    """Equal to the bit, or where sums have another order, but for their rounding."""
    if sums_in_one_order():
        np.testing.assert_array_equal(actual, expected)
    else:
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)

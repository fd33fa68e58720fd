"""Random numbers by name and place: what is drawn does not depend on what was drawn before."""

import zlib

import numpy as np


def uniforms(seed: int, purpose: str, place: int, count: int = 1) -> np.ndarray:
    """Uniform numbers in (0, 1), float64 [count]; others for every purpose and place.

    Raw bits of a counter-based generator, which are the same with every NumPy version.
    """
    key = seed + ((1 + zlib.crc32(purpose.encode())) << 64)
    bits = np.random.Philox(key=key, counter=[0, 0, 0, place]).random_raw(count)
    return ((bits >> np.uint64(11)) + 0.5) * 2.0**-53

"""Chance that depends on the seed and the prompt's id alone: not on order, splits or processes."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import xxhash

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def prompt_seeds(prompt_ids: pa.StringArray | Sequence[str], seed: int, purpose: str) -> np.ndarray:
    """Returns uint64 [G]: xxh3-64 of the prompt's id, seeded by xxh3-64 of seed and purpose.

    The purpose keeps draws apart that have nothing to do with each other.
    """
    ids = prompt_ids.to_pylist() if isinstance(prompt_ids, pa.Array) else prompt_ids
    base = xxhash.xxh3_64_intdigest(f"{seed}:{purpose}".encode())
    return np.array([xxhash.xxh3_64_intdigest(name.encode(), base) for name in ids], np.uint64)


def draws(seeds: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Returns uint64: draw number ``index`` of each seed, by SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    state = seeds + (index.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return np.asarray(state ^ (state >> np.uint64(31)))


def uniform(bits: np.ndarray) -> np.ndarray:
    """Returns float64 in [0, 1) from the upper 53 bits."""
    return np.asarray((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)

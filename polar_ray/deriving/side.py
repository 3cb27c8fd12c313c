"""On which side of the split between training and validation a prompt is."""

import numpy as np
import pyarrow as pa
import xxhash

from polar_ray.data.ids import message_hashes


def is_validation(prompts: pa.ListArray, share: float) -> np.ndarray:
    """Returns bool, one per prompt (``MESSAGES``): whether the hash of its messages is below the share.

    The side follows from the text alone, so prompts with the same text and different ids are on the same side, and a
    prompt keeps its side in other datasets and under a larger share.
    """
    if share == 0:
        return np.zeros(len(prompts), bool)
    digests = message_hashes(prompts)
    fractions = np.array([xxhash.xxh3_64_intdigest(digest) for digest in digests], np.uint64)
    return np.asarray(fractions < np.uint64(int(share * 2.0**64)))

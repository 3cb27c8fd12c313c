"""Ids of prompts and candidates that the input does not name: derived from content, so the same in every run.

A derived ``prompt_id`` is the xxh3-128 hash (32 hexadecimal digits) of the prompt's and the references' messages. A
derived ``candidate_id`` is that of the candidate's messages; a second candidate with the same messages in its
group gets ``-1``, a third ``-2``. Neither depends on the file, the layout or the other candidates.

The hash of messages is taken over the UTF-8 text of all roles, of all contents, and their lengths in bytes (int64,
little-endian), so that no two different lists of messages have the same bytes.
"""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from polar_ray.data.arrays import offsets


def message_hashes(messages: pa.ListArray) -> list[bytes]:
    """Returns 16 bytes for each list of messages in an array of ``MESSAGES`` without nulls."""
    role_at, roles = _text(messages.values.field("role"))
    content_at, contents = _text(messages.values.field("content"))
    role_sizes, content_sizes = np.diff(role_at).tobytes(), np.diff(content_at).tobytes()
    # Plain integers: this loop runs once per candidate, and NumPy's scalars would take most of its time.
    role_at, content_at = role_at.tolist(), content_at.tolist()
    hashes = []
    for start, stop in pairwise(messages.offsets.to_pylist()):
        state = xxhash.xxh3_128(roles[role_at[start] : role_at[stop]])
        state.update(contents[content_at[start] : content_at[stop]])
        state.update(role_sizes[8 * start : 8 * stop])
        state.update(content_sizes[8 * start : 8 * stop])
        hashes.append(state.digest())
    return hashes


def reference_hashes(references: pa.ListArray) -> list[bytes]:
    """Returns the joined hashes of each row's references, 16 bytes for each of them."""
    each = message_hashes(references.values)
    ends = references.offsets.to_numpy().tolist()
    return [b"".join(each[start:stop]) for start, stop in pairwise(ends)]


def with_prompt_ids(prompt_ids: pa.Array, prompts: pa.ListArray, references: pa.ListArray) -> pa.Array:
    """Returns the ids with the missing ones derived."""
    missing = np.flatnonzero(prompt_ids.is_null().to_numpy(zero_copy_only=False))
    if not len(missing):
        return prompt_ids
    heads, tails = message_hashes(_take(prompts, missing)), reference_hashes(_take(references, missing))
    derived = [xxhash.xxh3_128_hexdigest(head + tail) for head, tail in zip(heads, tails, strict=True)]
    return _filled(prompt_ids, derived)


def with_candidate_ids(candidate_ids: pa.Array, messages: pa.ListArray, groups: np.ndarray) -> pa.Array:
    """Returns the ids with the missing ones derived.

    Args:
        candidate_ids: string, one per candidate.
        messages: The candidates' messages.
        groups: int64 number of each candidate's group; equal numbers stand for one group.
    """
    missing = np.flatnonzero(candidate_ids.is_null().to_numpy(zero_copy_only=False))
    if not len(missing):
        return candidate_ids
    counts: dict[tuple[int, bytes], int] = {}
    derived = []
    hashes = message_hashes(_take(messages, missing))
    for group, digest in zip(groups[missing].tolist(), hashes, strict=True):
        count = counts.get((group, digest), 0)
        counts[(group, digest)] = count + 1
        derived.append(f"{digest.hex()}-{count}" if count else digest.hex())
    return _filled(candidate_ids, derived)


def repeats(groups: np.ndarray, values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Finds values that occurred before in their group.

    Returns:
        Two int64 arrays: the positions of the repeats, and for each the position of the value's first occurrence.
    """
    codes = values.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    pairs = groups.astype(np.int64) * (len(codes) + 1) + codes
    _, first, inverse = np.unique(pairs, return_index=True, return_inverse=True)
    origin = first[inverse]
    again = np.flatnonzero(origin != np.arange(len(codes)))
    return again, origin[again]


def _filled(ids: pa.Array, derived: list[str]) -> pa.Array:
    return pc.replace_with_mask(ids, ids.is_null(), pa.array(derived, pa.string()))


def _take(array: pa.ListArray, rows: np.ndarray) -> pa.ListArray:
    return array if len(rows) == len(array) else array.take(pa.array(rows))


def _text(array: pa.StringArray) -> tuple[np.ndarray, memoryview]:
    """Returns int64 offsets and the bytes of a string array without nulls."""
    _, bounds, data = array.buffers()
    if len(array) == 0:
        return offsets([]), memoryview(b"")
    at = np.frombuffer(bounds, np.int32)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    return at, memoryview(data if data is not None else b"")

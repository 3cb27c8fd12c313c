"""Attention of a packed row on CUDA by torch's FlashAttention for sequences of different lengths.

The keys of each chain are gathered, so that they end where their queries end, which is how FlashAttention reads
causality where there are more keys than queries. The other way, a call for each level of the prefix tree with their
outputs merged by their log-sum-exps (cascade attention), reads a shared prefix once instead of once for each
candidate; but it rounds each level's output to half precision before they are merged, and a sliding window, which
depends on the positions of single queries, does not fit into it. What is gathered at a time is bounded.
"""

from dataclasses import dataclass

import numpy as np
import torch

from polar_ray.engine.layout import Pieces, Spans
from polar_ray.engine.transfer import to_device

KEYS_PER_TOKEN = 4
"""Keys that are gathered at a time, for each token of the row: with N candidates of a long prompt the chains together
are far longer than the row."""
_MOST_DIMENSIONS = 256


@dataclass(frozen=True)
class VarlenCall:
    """One call, for spans next to each other.

    Attributes:
        first: The first query's place.
        stop: The place after the last query.
        keys: int64, the place of each key of each chain, one chain after the other, on the device.
        query_ends: int32 ``[spans + 1]``, cumulative lengths of the spans, on the device.
        key_ends: int32 ``[spans + 1]``, cumulative lengths of the chains, on the device.
        most_queries: The longest span. Known to the host, so that no layer has to wait for the device to tell it.
        most_keys: The longest chain.
    """

    first: int
    stop: int
    keys: torch.Tensor
    query_ends: torch.Tensor
    key_ends: torch.Tensor
    most_queries: int
    most_keys: int


def varlen_calls(pieces: Pieces, spans: Spans, device: torch.device, most_keys: int) -> tuple[VarlenCall, ...]:
    """Returns the calls for a layout, whose spans lie next to each other from place 0 on.

    Args:
        pieces: Where the keys' runs lie.
        spans: Where the queries' runs lie, and what they attend to.
        device: Where the tables go.
        most_keys: Keys of one call, unless one chain alone has more.
    """
    lengths = pieces.length[spans.chain].astype(np.int64)
    chain_lengths = np.add.reduceat(lengths, spans.chain_start[:-1]) if len(spans.start) else lengths
    calls = []
    first = 0
    while first < len(spans.start):
        within = np.cumsum(chain_lengths[first:]) <= most_keys
        stop = first + max(1, int(within.sum()))
        chains = slice(spans.chain_start[first], spans.chain_start[stop])
        part, starts = lengths[chains], pieces.start[spans.chain[chains]].astype(np.int64)
        # Each piece's places count up from its start.
        keys = np.arange(part.sum()) + np.repeat(starts - (np.cumsum(part) - part), part)
        calls.append(
            VarlenCall(
                int(spans.start[first]),
                int(spans.start[stop - 1] + spans.length[stop - 1]),
                to_device(keys, device),
                to_device(_ends(spans.length[first:stop]), device),
                to_device(_ends(chain_lengths[first:stop]), device),
                int(spans.length[first:stop].max()),
                int(chain_lengths[first:stop].max()),
            )
        )
        first = stop
    return tuple(calls)


def varlen_serves(query: torch.Tensor, softcap: float | None) -> bool:
    """Whether ``attend_varlen`` computes this: half precision on an Ampere GPU or a later one, without a softcap.

    Args:
        query: ``[queries, heads, dim]``.
        softcap: The cap of the scores, if there is one.
    """
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and softcap is None
        and len(query) > 0
        and query.shape[2] % 8 == 0
        and query.shape[2] <= _MOST_DIMENSIONS
        # Earlier ones do not have it, or without the number of splits.
        and torch.__version__ >= "2.13"
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def attend_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    calls: tuple[VarlenCall, ...],
    *,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """Returns what ``attend`` returns; the arguments are its too, but for ``calls``, which ``varlen_calls`` makes."""
    from torch.nn.attention.varlen import varlen_attn

    outputs = []
    for call in calls:
        out = varlen_attn(
            query[call.first : call.stop],
            key[call.keys],
            value[call.keys],
            call.query_ends,
            call.key_ends,
            call.most_queries,
            call.most_keys,
            scale=scale,
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=query.shape[1] != key.shape[1],
            # One split, so that no sum depends on how long the others are.
            num_splits=1,
        )
        assert isinstance(out, torch.Tensor)
        outputs.append(out)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _ends(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)

"""Attention of one packed row: each span of queries over its chain of keys, and over nothing else."""

from dataclasses import dataclass

import numpy as np
import torch

from polar_ray.engine.kernels import Kernels
from polar_ray.engine.layout import Pieces, Spans

TILE = 128
"""Queries of one tile. Its scores are written out, so that a tile of a long sequence stays in cache."""


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pieces: Pieces,
    spans: Spans,
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    kernels: Kernels | None = None,
) -> torch.Tensor:
    """Returns the attention of every query over the keys of its chain up to its own position.

    There is no mask tensor: keys beyond a tile's last query are not computed, and only the triangle at the tile's end
    (and at its window's start) is masked.

    Args:
        query: ``[queries, heads, dim]``.
        key: ``[keys, kv_heads, dim]``; ``heads / kv_heads`` heads that follow each other share one.
        value: ``[keys, kv_heads, dim]``.
        pieces: Where the keys' runs lie.
        spans: Where the queries' runs lie, and what they attend to.
        scale: Multiplies the scores.
        softcap: Scores become ``softcap * tanh(score / softcap)``, as in Gemma 2.
        window: A query attends to so many keys at most, its own included.
        kernels: Computes it where it is made for these tensors.

    Returns:
        ``[queries, heads, dim]``, in the dtype of the queries. Scores and their softmax are computed in float32 on the
        CPU, and elsewhere in the dtype of the queries with a float32 softmax.
    """
    heads, kv_heads, dim = query.shape[1], key.shape[1], query.shape[2]
    if kernels is not None and kernels.attends(query.dtype, dim, heads // kv_heads):
        return kernels.attention(query, key, value, pieces, spans, scale=scale, softcap=softcap, window=window)
    out = torch.empty_like(query)
    if query.device.type == "cpu":
        # Scores rounded to half precision would be further off than those of transformers.
        query, key, value = query.float(), key.float(), value.float()
    for span in range(len(spans.start)):
        places = [slice(pieces.start[p], pieces.start[p] + pieces.length[p]) for p in spans.chain_of(span).tolist()]
        # [kv_heads, keys, dim]; their positions are 0, 1, 2, …
        keys = torch.cat([key[place] for place in places]).transpose(0, 1)
        values = torch.cat([value[place] for place in places]).transpose(0, 1)
        for first in range(0, int(spans.length[span]), TILE):
            stop = min(int(spans.length[span]), first + TILE)
            rows = slice(int(spans.start[span]) + first, int(spans.start[span]) + stop)
            position = int(spans.position[span]) + first
            out[rows] = _tile(query[rows], keys, values, position, scale, softcap, window)
    return out


def _tile(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    position: int,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> torch.Tensor:
    """Returns ``[queries, heads, dim]`` for queries that start at a position of keys ``[kv_heads, keys, dim]``."""
    queries, heads, dim = query.shape
    kv_heads = keys.shape[0]
    shared_by = heads // kv_heads
    low = 0 if window is None else max(0, position - window + 1)
    keys, values = keys[:, low : position + queries], values[:, low : position + queries]
    # Heads that share a key become rows of one matrix: [kv_heads, shared_by * queries, dim].
    folded = query.view(queries, kv_heads, shared_by, dim).permute(1, 2, 0, 3).reshape(kv_heads, -1, dim)
    scores = torch.bmm(folded, keys.transpose(1, 2)).mul_(scale)
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    view = scores.view(kv_heads, shared_by, queries, -1)
    _hide_later(view[..., position - low :])
    if window is not None:
        _hide_beyond(view, position, low, window)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)
    return torch.bmm(weights, values).view(kv_heads, shared_by, queries, dim).permute(2, 0, 1, 3).flatten(1, 2)


def _hide_later(scores: torch.Tensor) -> None:
    queries = scores.shape[-1]
    later = torch.ones(queries, queries, dtype=torch.bool, device=scores.device).triu_(1)
    scores.masked_fill_(later, -torch.inf)


def _hide_beyond(scores: torch.Tensor, position: int, low: int, window: int) -> None:
    queries, keys = scores.shape[-2:]
    own = torch.from_numpy(np.arange(position, position + queries)).to(scores.device)
    at = torch.from_numpy(np.arange(low, low + keys)).to(scores.device)
    scores.masked_fill_(at[None, :] <= own[:, None] - window, -torch.inf)


@dataclass(frozen=True)
class VarlenTables:
    """What attention over sequences of different lengths on CUDA wants to know, on the device.

    Attributes:
        keys: int64, the place of each key of each chain, one chain after the other.
        query_ends: int32 ``[spans + 1]``, cumulative lengths of the spans.
        key_ends: int32 ``[spans + 1]``, cumulative lengths of the chains up to the last query.
        most_queries: The longest span.
        most_keys: The longest chain.
    """

    keys: torch.Tensor
    query_ends: torch.Tensor
    key_ends: torch.Tensor
    most_queries: int
    most_keys: int

    @staticmethod
    def of(pieces: Pieces, spans: Spans, device: torch.device) -> "VarlenTables":
        """Makes the tables of a layout. The spans must lie next to each other."""
        places = []
        for span in range(len(spans.start)):
            chain = spans.chain_of(span).tolist()
            keys = np.concatenate([np.arange(pieces.start[p], pieces.start[p] + pieces.length[p]) for p in chain])
            places.append(keys[: int(spans.position[span]) + int(spans.length[span])])
        lengths = [len(keys) for keys in places]
        return VarlenTables(
            torch.from_numpy(np.concatenate([np.empty(0, np.int64), *places])).to(device),
            torch.tensor(np.cumsum([0, *spans.length.tolist()]), dtype=torch.int32, device=device),
            torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32, device=device),
            int(max(spans.length, default=0)),
            max(lengths, default=0),
        )


def varlen_serves(query: torch.Tensor, softcap: float | None) -> bool:
    """Whether ``attend_varlen`` can compute this: half precision on CUDA, without a softcap."""
    return query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and softcap is None and len(query) > 0


def attend_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    tables: VarlenTables,
    *,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """Returns what ``attend`` returns, by torch's FlashAttention for sequences of different lengths.

    The keys of each chain are gathered, so that they end where their queries end, which is how FlashAttention reads
    causality when there are more keys than queries.
    """
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(
        query,
        key[tables.keys],
        value[tables.keys],
        tables.query_ends,
        tables.key_ends,
        tables.most_queries,
        tables.most_keys,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
        # One split, so that no sum depends on how long the others are.
        num_splits=1,
    )
    assert isinstance(out, torch.Tensor)
    return out

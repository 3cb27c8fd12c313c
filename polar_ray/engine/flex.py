"""Attention of a packed row on CUDA by FlexAttention: what FlashAttention cannot do (float32, softcaps).

A run's descendants lie right behind it, so the spans that attend to a piece of keys stand next to each other: whether a
query attends to a key is whether its span is in the key's range and the key's position is not later than its own.
Blocks of queries and keys for which that holds nowhere are skipped, and those for which it holds everywhere are not
masked; both are found on the host, from the layout alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from polar_ray.engine.layout import Pieces, Spans
from polar_ray.engine.transfer import to_device

BLOCK = 128
_SMALLEST_DIMENSION = 16


@dataclass(frozen=True)
class Visibility:
    """Which queries attend to which keys.

    Attributes:
        span: int32 ``[queries]``, the span of each query.
        query_position: int32 ``[queries]``, its position in its sequence.
        first: int32 ``[keys]``, the first span that attends to each key.
        stop: int32 ``[keys]``, the span after the last that does.
        key_position: int32 ``[keys]``, its position in its sequence.
    """

    span: np.ndarray
    query_position: np.ndarray
    first: np.ndarray
    stop: np.ndarray
    key_position: np.ndarray

    @staticmethod
    def of(pieces: Pieces, spans: Spans) -> "Visibility":
        """Reads it off a layout."""
        count = len(spans.start)
        span_of_link = np.repeat(np.arange(count), np.diff(spans.chain_start))
        first, stop = np.full(len(pieces.start), count), np.zeros(len(pieces.start), np.int64)
        np.minimum.at(first, spans.chain, span_of_link)
        np.maximum.at(stop, spans.chain, span_of_link + 1)
        return Visibility(
            np.repeat(np.arange(count), spans.length).astype(np.int32),
            _counted(spans.position, spans.length),
            np.repeat(first, pieces.length).astype(np.int32),
            np.repeat(stop, pieces.length).astype(np.int32),
            _counted(pieces.position, pieces.length),
        )

    def blocks(self, window: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Returns bool ``[blocks of queries, blocks of keys]``: where some may be visible, and where all are.

        Args:
            window: A query attends to so many keys at most, its own included.
        """
        span_low, span_high = _extremes(self.span)
        at_low, at_high = _extremes(self.query_position)
        first_low, first_high = _extremes(self.first)
        stop_low, stop_high = _extremes(self.stop)
        key_low, key_high = _extremes(self.key_position)
        some = (span_high[:, None] >= first_low) & (span_low[:, None] < stop_high) & (key_low <= at_high[:, None])
        every = (span_low[:, None] >= first_high) & (span_high[:, None] < stop_low) & (key_high <= at_low[:, None])
        if window is not None:
            some &= key_high > at_low[:, None] - window
            every &= key_low > at_high[:, None] - window
        if len(self.key_position) % BLOCK:
            # Keys beyond the end are for the mask to hide.
            every[:, -1] = False
        return some, every


@dataclass(frozen=True)
class FlexTables:
    """``Visibility`` as FlexAttention wants it, on the device."""

    mask: BlockMask

    @staticmethod
    def of(pieces: Pieces, spans: Spans, device: torch.device, window: int | None) -> "FlexTables":
        """Makes the tables of a layout."""
        visibility = Visibility.of(pieces, spans)
        some, every = visibility.blocks(window)
        columns = (visibility.span, visibility.query_position, visibility.first, visibility.stop)
        span, at, first, stop = (to_device(column, device) for column in columns)
        key_at = to_device(visibility.key_position, device)

        def visible(_: Any, __: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            seen = (span[query] >= first[key]) & (span[query] < stop[key]) & (key_at[key] <= at[query])
            return seen if window is None else seen & (key_at[key] > at[query] - window)

        return FlexTables(
            BlockMask.from_kv_blocks(
                *_listed(some & ~every, device),
                *_listed(every, device),
                BLOCK_SIZE=BLOCK,
                mask_mod=visible,
                seq_lengths=(len(visibility.span), len(visibility.first)),
            )
        )


def flex_serves(query: torch.Tensor) -> bool:
    """Whether ``attend_flex`` computes this: on CUDA, for heads that are not tiny."""
    return query.is_cuda and len(query) > 0 and query.shape[2] >= _SMALLEST_DIMENSION


def attend_flex(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    tables: FlexTables,
    *,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """Returns what ``attend`` returns; the arguments are its too, but for ``tables``, which hold the window."""
    out = _flex(query.is_cuda)(
        *(tensor.transpose(0, 1)[None] for tensor in (query, key, value)),
        score_mod=None if softcap is None else _capped(softcap),
        block_mask=tables.mask,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
        # Not the kernel that splits the keys of few queries by how many there are.
        kernel_options={"FORCE_USE_FLEX_ATTENTION": True} if query.is_cuda else None,
    )
    assert isinstance(out, torch.Tensor)
    return out[0].transpose(0, 1)


@cache
def _flex(on_cuda: bool) -> Callable[..., Any]:
    """Compiled for any lengths, since no two forwards have the same; on the CPU as it is, which is of use for tests."""
    attention: Callable[..., Any] = flex_attention
    if not on_cuda:
        return attention
    import torch._dynamo  # Takes a second to load.

    # A program for each kind of layer, tokens or read-outs, one block or many. Beyond the limit it would run
    # uncompiled, without a word and with all scores in memory.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    # A softcap that might change from call to call cannot be compiled.
    torch._dynamo.config.specialize_float = True
    return torch.compile(attention, dynamic=True)


@cache
def _capped(softcap: float) -> Callable[..., torch.Tensor]:
    def cap(score: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return softcap * torch.tanh(score / softcap)

    return cap


def _counted(position: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Returns positions that count up from each of these, so many each."""
    ends = np.cumsum(length)
    counted: np.ndarray = np.arange(ends[-1] if len(ends) else 0) + np.repeat(position - (ends - length), length)
    return counted.astype(np.int32)


def _extremes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    starts = np.arange(0, len(values), BLOCK)
    return np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)


def _listed(blocks: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns int32 ``[1, 1, rows]``, how many there are in each row, and ``[1, 1, rows, columns]``, those first."""
    counts, indices = blocks.sum(1).astype(np.int32), np.argsort(~blocks, axis=1, kind="stable").astype(np.int32)
    return to_device(counts, device)[None, None], to_device(indices, device)[None, None]

"""Where everything lies in the row of one forward: tokens, the keys that they attend to, and what is read off."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polar_ray.engine.plan import Forward, Plan


@dataclass(frozen=True)
class Pieces:
    """Runs of keys. Keys of earlier forwards come first, then those of the row itself.

    Attributes:
        start: int32 ``[pieces]``, the first key's place.
        length: int32 ``[pieces]``.
        position: int32 ``[pieces]``, the first key's position in its sequence.
    """

    start: np.ndarray
    length: np.ndarray
    position: np.ndarray


@dataclass(frozen=True)
class Spans:
    """Queries that stand next to each other and attend to one chain of pieces, causally.

    The pieces of a chain follow each other from a sequence's start, and the queries' own keys end the last of them.

    Attributes:
        start: int32 ``[spans]``, the first query's place.
        length: int32 ``[spans]``.
        position: int32 ``[spans]``, the first query's position in its sequence.
        chain_start: int32 ``[spans + 1]``: span ``i`` has ``chain[chain_start[i]:chain_start[i + 1]]``.
        chain: int32, positions in the pieces.
    """

    start: np.ndarray
    length: np.ndarray
    position: np.ndarray
    chain_start: np.ndarray
    chain: np.ndarray

    def chain_of(self, span: int) -> np.ndarray:
        """Returns the pieces of a span."""
        chain: np.ndarray = self.chain[self.chain_start[span] : self.chain_start[span + 1]]
        return chain


@dataclass(frozen=True)
class Layout:
    """The row of one forward.

    Attributes:
        ids: int64 ``[tokens]``.
        positions: int64 ``[tokens]``, each token's position in its sequence.
        pieces: The keys.
        tokens: All tokens as queries.
        reads: The read-outs as queries, in the order of ``read_runs``.
        read_rows: int64 ``[read-outs]``, their places in the row.
        read_runs: The run that ends at each read-out.
        run_rows: By run of the forward, where it lies among the row's tokens.
    """

    ids: np.ndarray
    positions: np.ndarray
    pieces: Pieces
    tokens: Spans
    reads: Spans
    read_rows: np.ndarray
    read_runs: tuple[int, ...]
    run_rows: dict[int, slice]


def lay_out(plan: Plan, forward: Forward, sequences: Sequence[np.ndarray]) -> Layout:
    """Lays out a forward of a plan.

    Args:
        plan: The plan.
        forward: One of its forwards.
        sequences: What the plan was made for.
    """
    inside = range(forward.first, forward.stop)
    numbers = [*forward.kept, *inside]
    runs = [plan.runs[number] for number in numbers]
    piece_of = {number: piece for piece, number in enumerate(numbers)}
    lengths = np.array([run.tokens for run in runs], np.int32)
    starts = (np.cumsum(lengths) - lengths).astype(np.int32)
    positions = np.array([run.start for run in runs], np.int32)
    row_starts = starts[len(forward.kept) :] - sum(lengths[: len(forward.kept)])
    chains: dict[int, tuple[int, ...]] = {-1: ()}
    for number, run in zip(numbers, runs, strict=True):
        chains[number] = (*chains[run.parent], piece_of[number])
    own = runs[len(forward.kept) :]
    own_lengths = lengths[len(forward.kept) :]
    own_positions = positions[len(forward.kept) :]
    read_runs = tuple(number for number in inside if number in plan.ends)
    read_places = np.array([number - forward.first for number in read_runs], np.int64)
    return Layout(
        ids=np.concatenate([sequences[run.source][run.start : run.end] for run in own]).astype(np.int64),
        positions=np.concatenate([np.arange(run.start, run.end) for run in own]),
        pieces=Pieces(starts, lengths, positions),
        tokens=_spans(row_starts, own_lengths, own_positions, [chains[number] for number in inside]),
        reads=_spans(
            np.arange(len(read_runs)),
            np.ones(len(read_runs)),
            own_positions[read_places] + own_lengths[read_places] - 1,
            [chains[number] for number in read_runs],
        ),
        read_rows=(row_starts[read_places] + own_lengths[read_places] - 1).astype(np.int64),
        read_runs=read_runs,
        run_rows={
            number: slice(int(start), int(start + length))
            for number, start, length in zip(inside, row_starts, own_lengths, strict=True)
        },
    )


def _spans(start: np.ndarray, length: np.ndarray, position: np.ndarray, chains: list[tuple[int, ...]]) -> Spans:
    ends = np.cumsum([0, *(len(chain) for chain in chains)])
    return Spans(
        np.ascontiguousarray(start, np.int32),
        np.ascontiguousarray(length, np.int32),
        np.ascontiguousarray(position, np.int32),
        ends.astype(np.int32),
        np.array([piece for chain in chains for piece in chain], np.int32),
    )

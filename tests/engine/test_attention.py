"""Attention over chains of runs, against attention written out for each sequence."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from polar_ray.engine.attention import attend
from polar_ray.engine.flex import BLOCK, FlexTables, Visibility, attend_flex
from polar_ray.engine.kernels import Kernels, load_kernels
from polar_ray.engine.layout import Layout, Spans, lay_out
from polar_ray.engine.plan import Budget, Plan, plan_forwards
from polar_ray.engine.varlen import varlen_calls

torch.set_num_threads(1)
KERNELS = load_kernels()
BACKENDS = [pytest.param(None, id="torch"), pytest.param(KERNELS, id="kernels")]
HEADS = [(12, 4, 64), (4, 2, 16), (6, 1, 24), (8, 8, 80), (2, 1, 256), (3, 1, 7)]
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 0.03}


def one_forward() -> tuple[Plan, Layout]:
    """Three groups with a common beginning, prefixes beyond a tile and a block of keys, candidates of all lengths."""
    random = np.random.default_rng(0)
    system = random.integers(0, 900, 50)
    sequences = []
    for _ in range(3):
        prefix = np.concatenate([system, random.integers(0, 900, 250)])
        lengths = (1, 7, 40, 150)
        sequences += [np.concatenate([prefix, random.integers(0, 900, n)]).astype(np.int32) for n in lengths]
    plan = plan_forwards(sequences, Budget(10**6, 10**12))
    return plan, lay_out(plan, plan.forwards[0], sequences)


PLAN, LAYOUT = one_forward()


def tensors(heads: int, kv_heads: int, dim: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((len(LAYOUT.ids), count, dim) for count in (heads, kv_heads, kv_heads))
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def written_out(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, softcap: float | None, window: int | None
) -> torch.Tensor:
    """Softmax attention in float64, run by run, each over the whole path from its sequence's start."""
    out = torch.empty(query.shape, dtype=torch.float64)
    shared_by = query.shape[1] // key.shape[1]
    for number, run in enumerate(PLAN.runs):
        path = [number]
        while PLAN.runs[path[0]].parent >= 0:
            path.insert(0, PLAN.runs[path[0]].parent)
        rows = torch.cat([torch.arange(len(LAYOUT.ids))[LAYOUT.run_rows[part]] for part in path])
        q, k, v = (tensor[rows].double() for tensor in (query, key, value))
        scores = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(shared_by, 1)) * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        at = torch.arange(len(rows))
        hidden = at[None, :] > at[:, None]
        if window is not None:
            hidden |= at[None, :] <= at[:, None] - window
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        whole = torch.einsum("hqk,khd->qhd", weights, v.repeat_interleave(shared_by, 1))
        out[LAYOUT.run_rows[number]] = whole[run.start :]
    return out


@pytest.mark.parametrize("kernels", BACKENDS)
@pytest.mark.parametrize("shape", HEADS)
@pytest.mark.parametrize("window", [None, 37])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_run_attends_to_its_path_alone(
    kernels: Kernels | None, shape: tuple[int, int, int], window: int | None, softcap: float | None, dtype: torch.dtype
) -> None:
    query, key, value = tensors(*shape, dtype)
    settings: dict[str, Any] = {"scale": shape[2] ** -0.5, "softcap": softcap, "window": window}
    found = attend(query, key, value, LAYOUT.pieces, LAYOUT.tokens, kernels=kernels, **settings)
    expected = written_out(query, key, value, **settings)
    assert found.dtype == dtype
    assert float((found.double() - expected).abs().max()) < TOLERANCE[dtype]


@pytest.mark.parametrize("kernels", BACKENDS)
def test_the_read_outs_alone_get_what_they_get_among_all(kernels: Kernels | None) -> None:
    query, key, value = tensors(4, 2, 32, torch.float32)
    every = attend(query, key, value, LAYOUT.pieces, LAYOUT.tokens, scale=0.2, kernels=kernels)
    reads = attend(query[LAYOUT.read_rows], key, value, LAYOUT.pieces, LAYOUT.reads, scale=0.2, kernels=kernels)
    assert len(reads) == 12
    torch.testing.assert_close(reads, every[LAYOUT.read_rows], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernels", BACKENDS)
def test_large_scores_do_not_overflow(kernels: Kernels | None) -> None:
    query, key, value = tensors(4, 2, 32, torch.float32)
    found = attend(query * 40, key * 40, value, LAYOUT.pieces, LAYOUT.tokens, scale=1.0, kernels=kernels)
    expected = written_out(query * 40, key * 40, value, 1.0, None, None)
    assert float((found.double() - expected).abs().max()) < 1e-2


@pytest.mark.parametrize("kernels", BACKENDS)
def test_nan_stays_in_the_runs_that_hang_on_it(kernels: Kernels | None) -> None:
    query, key, value = tensors(4, 2, 32, torch.float32)
    # The first candidate of the first group: nothing hangs on it.
    alone = next(number for number in PLAN.last if PLAN.runs[number].tokens > 1)
    key[LAYOUT.run_rows[alone]] = float("nan")
    found = attend(query, key, value, LAYOUT.pieces, LAYOUT.tokens, scale=0.2, kernels=kernels)
    is_nan = found.isnan().all(-1).all(-1)
    assert is_nan[LAYOUT.run_rows[alone]].all()
    is_nan[LAYOUT.run_rows[alone]] = False
    assert not is_nan.any()


@pytest.mark.skipif(KERNELS is None, reason="needs a C compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype) -> None:
    query, key, value = tensors(12, 4, 64, dtype)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(attend(query, key, value, LAYOUT.pieces, LAYOUT.tokens, scale=0.1, kernels=KERNELS))
    torch.set_num_threads(1)
    assert all(torch.equal(result, results[0]) for result in results)


def test_keys_between_others_are_read_where_they_lie() -> None:
    # Queries, keys and values as views of one matrix, as after one product for all three.
    query, key, value = tensors(4, 2, 16, torch.float32)
    joint = torch.cat([query.flatten(1), key.flatten(1), value.flatten(1)], dim=1)
    views = [part.view(len(joint), -1, 16) for part in torch.split(joint, [64, 32, 32], dim=1)]
    for kernels in (None, KERNELS):
        plain = attend(query, key, value, LAYOUT.pieces, LAYOUT.tokens, scale=0.25, kernels=kernels)
        assert torch.equal(attend(*views, LAYOUT.pieces, LAYOUT.tokens, scale=0.25, kernels=kernels), plain)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [None, 37, 300])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_flex_attention_with_its_mask_gives_the_same(window: int | None, softcap: float | None) -> None:
    query, key, value = tensors(4, 2, 16, torch.float32)
    tables = FlexTables.of(LAYOUT.pieces, LAYOUT.tokens, torch.device("cpu"), window)
    found = attend_flex(query, key, value, tables, scale=0.25, softcap=softcap)
    expected = written_out(query, key, value, 0.25, softcap, window)
    torch.testing.assert_close(found.double(), expected, atol=5e-6, rtol=0)
    tables = FlexTables.of(LAYOUT.pieces, LAYOUT.reads, torch.device("cpu"), window)
    reads = attend_flex(query[LAYOUT.read_rows], key, value, tables, scale=0.25, softcap=softcap)
    torch.testing.assert_close(reads.double(), expected[LAYOUT.read_rows], atol=5e-6, rtol=0)


@pytest.mark.parametrize("window", [None, 37, 300])
@pytest.mark.parametrize("spans", [LAYOUT.tokens, LAYOUT.reads], ids=["tokens", "reads"])
def test_no_block_with_something_to_see_is_skipped_and_none_with_something_to_hide_is_left_unmasked(
    spans: Spans, window: int | None
) -> None:
    queries, keys = int(spans.length.sum()), len(LAYOUT.ids)
    # What each query sees, from the chains alone, query by query.
    visible = np.zeros((queries, keys), bool)
    for span in range(len(spans.start)):
        chain = [np.arange(LAYOUT.pieces.length[p]) + LAYOUT.pieces.start[p] for p in spans.chain_of(span)]
        path = np.concatenate(chain)
        for query in range(spans.length[span]):
            end = spans.position[span] + query + 1
            visible[spans.start[span] + query, path[0 if window is None else max(0, end - window) : end]] = True
    some, every = Visibility.of(LAYOUT.pieces, spans).blocks(window)
    skipped = 0
    for row, column in np.ndindex(some.shape):
        block = visible[row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK]
        assert some[row, column] or not block.any()
        assert not every[row, column] or block.all()
        assert not every[row, column] or block.shape[1] == BLOCK
        skipped += not some[row, column]
    # Read-outs are few, and one block of them.
    assert skipped > some.size / 5 or len(some) == 1


@pytest.mark.parametrize("most_keys", [1, 900, 10**6])
@pytest.mark.parametrize("spans", [LAYOUT.tokens, LAYOUT.reads], ids=["tokens", "reads"])
def test_the_calls_for_flash_attention_gather_each_chain_once_and_no_more_at_a_time(
    spans: Spans, most_keys: int
) -> None:
    calls = varlen_calls(LAYOUT.pieces, spans, torch.device("cpu"), most_keys)
    chains = []
    place = 0
    for call in calls:
        assert call.first == place
        place = call.stop
        ends, key_ends = call.query_ends.tolist(), call.key_ends.tolist()
        assert ends[-1] == call.stop - call.first
        assert call.most_queries == np.diff(ends).max()
        assert call.most_keys == np.diff(key_ends).max()
        assert key_ends[-1] == len(call.keys) <= max(most_keys, call.most_keys)
        chains += [call.keys[low:high].tolist() for low, high in pairwise(key_ends)]
    assert place == spans.length.sum()
    assert len(calls) == (len(spans.start) if most_keys == 1 else 1 if most_keys == 10**6 else len(calls))
    for span, chain in enumerate(chains):
        pieces = spans.chain_of(span)
        expected = [np.arange(LAYOUT.pieces.length[p]) + LAYOUT.pieces.start[p] for p in pieces]
        assert chain == np.concatenate(expected).tolist()
        # FlashAttention lets the last query see the last key, the one before it the one before, and so on.
        assert len(chain) == spans.position[span] + spans.length[span]

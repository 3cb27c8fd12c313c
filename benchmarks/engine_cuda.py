"""The engine's benchmark on a CUDA device; ``benchmarks/engine.py --device cuda`` runs it.

One random model, in the shapes of POLAR, serves all ways, which take turns:

    (a) padded: transformers, batches of 16 in the order of arrival, with an attention mask
    (b) sorted: sorted by length, as many padded tokens to a batch as the engine's token budget, no mask, so that
        torch's FlashAttention serves it: padding on the right is never seen by what comes before
    (d) flat: the engine, nothing shared
    (e) shared: the engine

``of peak`` is what was computed by the time taken, against the fastest large matrix product of the same dtype that was
measured in the same rounds. ``max |Δ|`` is against plain forwards of single sequences in the same dtype: what (b) shows
is what rounding does.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from shapes import random_model
from workload import Group, work

from polar_ray.engine.batches import plan_batches
from polar_ray.engine.device import Device, pick_device
from polar_ray.engine.engine import Engine
from polar_ray.models.dtype import TORCH_DTYPES, DType


class Bench:
    """A model on a device, and the ways of scoring with it."""

    def __init__(self, model: str, dtype: DType, device: Device, token_budget: int | None) -> None:
        self.device = pick_device(device)
        self.dtype: DType = dtype
        loaded = random_model(model, dtype, self.device)
        self.name = model
        self.shared = Engine(loaded, device=device, dtype=dtype, token_budget=token_budget)
        # Both run the same weights: on CUDA the engine changes the model while it runs only.
        self.flat = Engine(loaded, device=device, dtype=dtype, token_budget=self.shared.token_budget, share=False)
        self.backbone: Any = loaded.backbone
        self.head: Any = loaded.head

    @torch.inference_mode()
    def padded(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """(a)"""
        scores = np.empty((len(sequences), 1), np.float32)
        for start in range(0, len(sequences), 16):
            rows = list(range(start, min(start + 16, len(sequences))))
            self._run(sequences, rows, scores, masked=True)
        return scores

    @torch.inference_mode()
    def sorted(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """(b)"""
        scores = np.empty((len(sequences), 1), np.float32)
        lengths = np.array([len(ids) for ids in sequences])
        for batch in plan_batches(lengths, self.shared.token_budget).batches:
            self._run(sequences, list(batch.rows), scores, masked=False)
        return scores

    def _run(self, sequences: Sequence[np.ndarray], rows: list[int], scores: np.ndarray, *, masked: bool) -> None:
        longest = max(len(sequences[row]) for row in rows)
        ids = np.zeros((len(rows), longest), np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(sequences[row])] = sequences[row]
            mask[place, : len(sequences[row])] = 1
        hidden = self.backbone(
            input_ids=torch.from_numpy(ids).to(self.device),
            attention_mask=torch.from_numpy(mask).to(self.device) if masked else None,
            use_cache=False,
        ).last_hidden_state
        last = torch.from_numpy(mask.sum(1) - 1).to(self.device)
        read = hidden[torch.arange(len(rows), device=self.device), last]
        scores[rows] = self.head(read.float()).cpu().numpy()

    def seconds(self, call: Callable[[], object]) -> float:
        """Returns the time that a call takes until the device is done."""
        self._wait()
        start = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - start

    def matrix_peak(self) -> float:
        """Returns the operations per second of the fastest of some large matrix products."""
        size = self.backbone.config.hidden_size, self.backbone.config.intermediate_size
        dtype = TORCH_DTYPES[self.dtype]
        best = 0.0
        for rows, inner, columns in ((4096, *size), (16384, *size), (8192, 8192, 8192)):
            x = torch.randn(rows, inner, device=self.device, dtype=dtype)
            weight = torch.randn(columns, inner, device=self.device, dtype=dtype)
            torch.nn.functional.linear(x, weight)
            for _ in range(5):

                def products(x: torch.Tensor = x, weight: torch.Tensor = weight) -> None:
                    for _ in range(4):
                        torch.nn.functional.linear(x, weight)

                best = max(best, 4 * 2.0 * rows * inner * columns / self.seconds(products))
        return best

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@dataclass
class Way:
    """One way of scoring and what was measured of it."""

    name: str
    score: Callable[[Sequence[np.ndarray]], np.ndarray]
    operations: float
    seconds: list[float] = field(default_factory=list)
    scores: np.ndarray | None = None


def print_table(bench: Bench, part: str, groups: list[Group], rounds: int, which: str) -> None:
    """Measures the ways on one set and prints the table."""
    sequences = [ids for group in groups for ids in group]
    flat, shared = bench.flat.plan(sequences), bench.shared.plan(sequences)
    config = bench.backbone.config
    needed = work(config, flat.tokens_given, flat.attention_given, None)
    ways = [
        Way("(a) padded", bench.padded, needed),
        Way("(b) sorted", bench.sorted, needed),
        Way("(d) flat", bench.flat.score, work(config, flat.tokens, flat.attention, len(set(flat.last)))),
        Way("(e) shared", bench.shared.score, work(config, shared.tokens, shared.attention, len(set(shared.last)))),
    ]
    ways = [way for way in ways if way.name[1] in which]
    peak = 0.0
    for number in range(rounds + 1):
        for way in ways:
            result: list[np.ndarray] = []
            taken = bench.seconds(lambda way=way, result=result: result.append(way.score(sequences)))  # type: ignore[misc]
            if number:
                # The first round compiles and warms up.
                way.seconds.append(taken)
                way.scores = result[0]
        peak = max(peak, bench.matrix_peak())
    some = slice(None, None, max(1, len(sequences) // 16))
    expected = bench.shared.score_alone(sequences[some])
    print(
        f"\n{part}: {len(groups)} groups, {len(sequences)} candidates, {flat.tokens_given} tokens given, "
        f"{shared.tokens} computed when shared; {bench.name}, {bench.dtype}, {bench.shared.token_budget} tokens to a "
        f"forward, {_device_name(bench.device)}, matrix peak {peak / 1e12:.3g} TFLOP/s"
    )
    print(f"{'':12}{'s':>8}{'cand/s':>9}{'tok/s':>9}{'of peak':>9}{'max |Δ|':>10}   times (e)")
    for way in ways:
        seconds = float(np.median(way.seconds))
        times = seconds / float(np.median(ways[-1].seconds))
        assert way.scores is not None
        delta = np.abs(way.scores[some] - expected).max()
        print(
            f"{way.name:12}{seconds:>8.2f}{len(sequences) / seconds:>9.1f}{flat.tokens_given / seconds:>9.0f}"
            f"{way.operations / seconds / peak:>9.1%}{delta:>10.1e}   {times:.2f}"
        )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)

"""How fast candidates are scored: as most people write it, with sorted batches, by vLLM, and by the engine.

    python benchmarks/engine.py --data FOLDER --dtype float32 --groups 12 --rounds 3

A random model of about 100 million parameters in the POLAR layout scores groups of real generations (FOLDER holds
Parquet files with the columns ``prompt``, ``reference`` and ``outputs``; without it, groups of random ids of about the
same lengths are made). Its weights are stored in bfloat16, as POLAR's are; in float32 it computes with the same
numbers. The ways take turns:

    (a) padded: transformers, one padded batch of 16 after the other, in the order of arrival, with an attention mask
    (b) sorted: the same, sorted by length, 8192 padded tokens to a batch
    (c) vLLM with prefix caching, where ``--vllm`` names the Python of its environment (see vllm_env.sh), in each of
        the settings of vllm_way.py; one at a time, in turns with (e), so these rows count by the (e) of their own turns
    (d) flat: the engine, nothing shared
    (e) shared: the engine

``of peak`` is what was computed (matrix products of the linear layers and of attention, without padding, the last
layer where it is needed) by the time taken, against the fastest large matrix product of the same dtype that was
measured in the same rounds; for (c) without the tokens that it says it had in its cache. ``max |Δ|`` and what follows
it are of the distances from plain forwards in float32; ``flips`` is the share of pairs of one prompt that come out in
the other order. Several ``--candidates`` or ``--dtype`` give a table each, and one of their ratios at the end. Loading
is not timed.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clock import clock, matrix_peak
from engine_cuda import Bench, print_table
from engine_profile import print_profile, profile
from shapes import SHAPES
from vllm_way import SETTINGS, Vllm
from workload import Group, generated_groups, polar_like, real_groups, work

from polar_ray.engine.engine import Engine
from polar_ray.engine.prefix_tree import pairs
from polar_ray.models.dtype import TORCH_DTYPES, DType
from polar_ray.models.loaded import LoadedModel

WARM_UP = 8
"""Sequences of the first round, which is not counted."""
CHECKED = 64
"""Sequences, about, whose scores are compared with plain ones."""


class Plain:
    """Padded batches of transformers with an attention mask."""

    def __init__(self, model: LoadedModel, *, by_length: bool) -> None:
        self.model = model
        self.by_length = by_length

    def batches(self, sequences: Sequence[np.ndarray]) -> list[list[int]]:
        if not self.by_length:
            return [list(range(start, min(start + 16, len(sequences)))) for start in range(0, len(sequences), 16)]
        order = sorted(range(len(sequences)), key=lambda row: -len(sequences[row]))
        batches: list[list[int]] = []
        for row in order:
            if not batches or len(sequences[batches[-1][0]]) * (len(batches[-1]) + 1) > 8192:
                batches.append([])
            batches[-1].append(row)
        return batches

    @torch.inference_mode()
    def score(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        scores = np.empty((len(sequences), 1), np.float32)
        for rows in self.batches(sequences):
            longest = max(len(sequences[row]) for row in rows)
            ids = torch.zeros(len(rows), longest, dtype=torch.long)
            mask = torch.zeros(len(rows), longest, dtype=torch.long)
            for place, row in enumerate(rows):
                ids[place, : len(sequences[row])] = torch.from_numpy(sequences[row])
                mask[place, : len(sequences[row])] = 1
            hidden = self.model.backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            last = hidden[torch.arange(len(rows)), mask.sum(1) - 1]
            scores[rows] = self.model.head(last.float()).numpy()
        return scores


Timed = Callable[[Sequence[np.ndarray]], tuple[float, np.ndarray]]


@dataclass
class Way:
    """One way of scoring and what was measured of it."""

    name: str
    score: Timed
    operations: float | None
    seconds: list[float] = field(default_factory=list)
    scores: np.ndarray | None = None


@dataclass
class Work:
    """One set of sequences and what was measured on it."""

    name: str
    candidates: int
    groups: list[Group]
    expected: np.ndarray
    ways: list[Way] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)

    @property
    def sequences(self) -> list[np.ndarray]:
        return [ids for group in self.groups for ids in group]

    @property
    def checked(self) -> slice:
        """The sequences whose scores are compared with plain ones."""
        return _checked(len(self.sequences))


def _checked(sequences: int) -> slice:
    return slice(None, None, max(1, sequences // CHECKED))


def take_turns(work: Work, ways: list[Way], rounds: int, peak: Callable[[], float]) -> None:
    """Lets ways take turns on a set; the first round warms up, on a part."""
    sequences = work.sequences
    for number in range(rounds + 1):
        for way in ways:
            seconds, scores = way.score(sequences[:WARM_UP] if number == 0 else sequences)
            if number:
                way.seconds.append(seconds)
                way.scores = scores
        work.peaks.append(peak())


def rows(work: Work, ways: list[Way], tokens: int) -> list[str]:
    """Returns a table's rows of ways that took turns, of which the last is (e)."""
    base = ways[-1].seconds
    lines = []
    for way in ways:
        seconds = float(np.median(way.seconds))
        assert way.scores is not None
        delta = np.abs(way.scores[work.checked, 0] - work.expected)
        share = "" if way.operations is None else f"{way.operations / seconds / max(work.peaks):.1%}"
        lines.append(
            f"{way.name:12}{seconds:>8.2f}{len(way.scores) / seconds:>9.1f}{tokens / seconds:>9.0f}{share:>9}"
            f"{delta.max():>10.1e}{np.quantile(delta, 0.99):>9.1e}{np.median(delta):>9.1e}"
            f"{np.sqrt((delta**2).mean()):>9.1e}{flips(work, way.scores[work.checked, 0]):>8.1%}"
            f"   {seconds / float(np.median(base)):.2f} (best {min(way.seconds) / min(base):.2f})"
        )
    return lines


def flips(work: Work, scores: np.ndarray) -> float:
    """Returns the share of the pairs within groups that the expected scores order otherwise."""
    group = np.repeat(np.arange(len(work.groups)), [len(group) for group in work.groups])[work.checked]
    first, second = np.nonzero(np.triu(group[:, None] == group, 1))
    order = np.sign(scores[first] - scores[second]) != np.sign(work.expected[first] - work.expected[second])
    return float(order.mean()) if len(order) else 0.0


def works(arguments: argparse.Namespace) -> list[Work]:
    """Returns the sets to score, with plain float32 scores of some of each."""
    exact = Engine(polar_like(torch.float32), device="cpu", dtype="float32", path="plain")
    found = []
    for part in arguments.sets if arguments.data else ["generated"]:
        for candidates in arguments.candidates:
            groups = groups_of(arguments, part, candidates)
            sequences = [ids for group in groups for ids in group]
            expected = exact.score_alone(sequences[_checked(len(sequences))])[:, 0]
            found.append(Work(part, candidates, groups, expected))
    return found


def groups_of(arguments: argparse.Namespace, part: str, candidates: int) -> list[Group]:
    """Returns the groups of a set."""
    if not arguments.data:
        return generated_groups(arguments.groups, candidates)
    tokenizer = arguments.tokenizer or arguments.data.parent / "tokenizer" / "internlm2.model"
    return real_groups(arguments.data / f"{part}.parquet", tokenizer, arguments.groups, candidates)


def run_on_cuda(arguments: argparse.Namespace) -> None:
    """Measures on a CUDA device and prints the tables; see engine_cuda.py."""
    for name in arguments.dtype:
        bench = Bench(arguments.model, name, "cuda", arguments.token_budget)
        for part in arguments.sets if arguments.data else ["generated"]:
            for candidates in arguments.candidates:
                print_table(bench, part, groups_of(arguments, part, candidates), arguments.rounds, arguments.ways)


def computed_by(vllm: Vllm, config: Any, sequences: list[np.ndarray]) -> float:
    """Returns the operations of vLLM's latest call: of each sequence, those after what it had in its cache."""
    lengths = [len(ids) for ids in sequences]
    attention = sum(pairs(cached, length) for cached, length in zip(vllm.cached.tolist(), lengths, strict=True))
    return work(config, sum(lengths) - int(vllm.cached.sum()), attention, None)


def run(name: DType, arguments: argparse.Namespace, sets: list[Work]) -> dict[str, list[float]]:
    """Measures all ways in one dtype, prints the tables, and returns by way its times (e) on each set."""
    dtype, threads = TORCH_DTYPES[name], arguments.threads
    now = clock(arguments.clock, threads)

    def timed(score: Callable[[Sequence[np.ndarray]], np.ndarray]) -> Timed:
        def call(sequences: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
            start = now()
            scores = score(sequences)
            return now() - start, scores

        return call

    def peak() -> float:
        return matrix_peak(dtype, now)

    plain = polar_like(dtype)
    settings: dict[str, Any] = {"device": "cpu", "dtype": name, "token_budget": arguments.token_budget}
    flat, shared = Engine(polar_like(dtype), share=False, **settings), Engine(polar_like(dtype), **settings)
    config = plain.backbone.config

    def shared_way(sequences: list[np.ndarray]) -> Way:
        plan = shared.plan(sequences)
        operations = work(config, plan.tokens, plan.attention, len(set(plan.last)))
        return Way("(e) shared", timed(shared.score), operations)

    tables: list[list[str]] = []
    ratios: dict[str, list[float]] = {}

    def note(part: Work, ways: list[Way], table: list[str]) -> None:
        added = rows(part, ways, sum(len(ids) for ids in part.sequences))
        # The tables come at the end, which can take a while.
        print("\n".join(f"{part.name}: {row}" for row in added), file=sys.stderr, flush=True)
        table += added
        for way in ways[:-1]:
            ratio = float(np.median(way.seconds) / np.median(ways[-1].seconds))
            ratios.setdefault(way.name, []).append(ratio)

    for part in sets:
        sequences = part.sequences
        part.peaks.clear()
        flat_plan = flat.plan(sequences)
        needed = work(config, flat_plan.tokens_given, flat_plan.attention_given, None)
        pruned = work(config, flat_plan.tokens, flat_plan.attention, len(set(flat_plan.last)))
        ways = {
            "a": Way("(a) padded", timed(Plain(plain, by_length=False).score), needed),
            "b": Way("(b) sorted", timed(Plain(plain, by_length=True).score), needed),
            "d": Way("(d) flat", timed(flat.score), pruned),
            "e": shared_way(sequences),
        }
        chosen = [way for letter, way in ways.items() if letter in arguments.ways + "e"]
        take_turns(part, chosen, arguments.rounds, peak)
        tables.append(
            [
                f"\n{part.name}: {len(part.groups)} groups of up to {part.candidates}, {len(sequences)} candidates, "
                f"{flat_plan.tokens_given} tokens given, {shared.plan(sequences).tokens} computed when shared; {name}, "
                f"{threads} thread(s), {arguments.clock} clock, matrix peak {max(part.peaks) / 1e9:.0f} GFLOP/s",
                f"{'':12}{'s':>8}{'cand/s':>9}{'tok/s':>9}{'of peak':>9}{'max |Δ|':>10}{'99 %':>9}{'median':>9}"
                f"{'rms':>9}{'flips':>8}   times (e)",
            ]
        )
        note(part, chosen, tables[-1])
    longest = max(len(ids) for part in sets for ids in part.sequences)
    for setting in [SETTINGS[key] for key in arguments.vllm_settings] if arguments.vllm else []:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            started = Vllm(
                arguments.vllm,
                setting,
                plain,
                folder,
                dtype=name,
                longest=longest,
                threads=threads,
                clock=arguments.clock,
            )
            vllm = stack.enter_context(started)
            print(f"{setting.name} in {setting.layout}: {vllm.settings}", flush=True)
            for part, table in zip(sets, tables, strict=True):
                ways_here = [Way(setting.name, vllm.score, None), shared_way(part.sequences)]
                take_turns(part, ways_here, arguments.rounds, peak)
                ways_here[0].operations = computed_by(vllm, config, part.sequences)
                note(part, ways_here, table)
    for part, table in zip(sets, tables, strict=True):
        print("\n".join(table), flush=True)
        if arguments.profile:
            print("\n(e) shared, once more:")
            print_profile(profile(shared, part.sequences, now), max(part.peaks))
    return ratios


def main() -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with gsm8k.parquet, arena_bench_v1.parquet, …")
    parser.add_argument("--sets", nargs="+", default=["gsm8k", "arena_bench_v1", "oasst_n200"])
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.model; default: ../tokenizer/internlm2.model")
    parser.add_argument("--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32"])
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--candidates", type=int, nargs="+", default=[8], help="most candidates of a group")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu")
    parser.add_argument("--ways", default="abde", help="which ways to measure; (e) always is")
    parser.add_argument("--vllm", type=Path, help="the Python of vLLM's environment")
    parser.add_argument("--vllm-settings", nargs="+", choices=list(SETTINGS), default=["default", "tuned", "polar"])
    parser.add_argument("--profile", action="store_true", help="print where (e) spends its time")
    parser.add_argument("--token-budget", type=int)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: see engine_cuda.py")
    parser.add_argument("--model", choices=sorted(SHAPES), default="polar-7b", help="on cuda; see shapes.py")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.device == "cuda":
        run_on_cuda(arguments)
        return
    sets = works(arguments)
    ratios = {name: run(name, arguments, sets) for name in arguments.dtype}
    if len(arguments.dtype) * len(arguments.candidates) == 1:
        return
    print(f"\ntimes (e):\n{'':46}" + "".join(f"{way:>12}" for way in ratios[arguments.dtype[0]]))
    for name, by_way in ratios.items():
        for place, part in enumerate(sets):
            label = f"{part.name}, {part.candidates} candidates, {name}"
            print(f"{label:46}" + "".join(f"{values[place]:>12.2f}" for values in by_way.values()))


if __name__ == "__main__":
    main()

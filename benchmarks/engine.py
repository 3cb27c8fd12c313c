"""How fast candidates are scored: as most people write it, with sorted batches, and by the engine.

    python benchmarks/engine.py --data FOLDER --dtype float32 --groups 12 --rounds 3

A random model of about 100 million parameters in the POLAR layout scores groups of real generations (FOLDER holds
Parquet files with the columns ``prompt``, ``reference`` and ``outputs``; without it, groups of random ids of about the
same lengths are made). The ways take turns in one process:

    (a) padded: transformers, one padded batch of 16 after the other, in the order of arrival, with an attention mask
    (b) sorted: the same, sorted by length, 8192 padded tokens to a batch
    (d) flat: the engine, nothing shared
    (e) shared: the engine

``share of peak`` is what was computed (matrix products of the linear layers and of attention, without padding, the
last layer where it is needed) by the time taken, against the fastest large matrix product of the same dtype that was
measured in the same rounds. Times are of the process, so that what else the machine does counts less.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine_cuda import Bench, print_table
from shapes import SHAPES
from transformers import LlamaConfig, LlamaModel

from polar_ray.engine.engine import Engine
from polar_ray.models.dtype import TORCH_DTYPES, DType
from polar_ray.models.loaded import LoadedModel, linear_head

VOCABULARY = 92544
SEPARATOR, END, BOS = 92527, 92528, 1


def polar_like(dtype: torch.dtype, vocabulary: int = 32000) -> LoadedModel:
    """Returns a random model with the shapes of a small POLAR."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        pad_token_id=None,
    )
    config._attn_implementation = "sdpa"
    backbone = LlamaModel(config).to(dtype).requires_grad_(False).eval()
    return LoadedModel(backbone, linear_head(torch.randn(1, 768) / 28), vocabulary, 32768)


def generated_groups(count: int, candidates: int) -> list[list[np.ndarray]]:
    """Returns groups of random ids in the POLAR layout, with lengths as in chat data."""
    random = np.random.default_rng(0)

    def some(length: float) -> np.ndarray:
        return random.integers(10, 31000, int(length)).astype(np.int32)

    groups = []
    for _ in range(count):
        prompt, reference = some(random.uniform(50, 400)), some(random.uniform(50, 600))
        prefix = np.concatenate([prompt, reference, [5], prompt])
        lengths = np.clip(np.exp(random.normal(4.9, 0.8, candidates)), 20, 800)
        groups.append([np.concatenate([prefix, some(length), [6]]).astype(np.int32) for length in lengths])
    return groups


def real_groups(path: Path, tokenizer: Path, count: int, candidates: int) -> list[list[np.ndarray]]:
    """Returns groups of a Parquet file in the POLAR layout; ids are folded into the small vocabulary."""
    import pyarrow.parquet as pq
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    rows = pq.read_table(path, columns=["prompt", "reference", "outputs"]).to_pylist()
    # Spread over the file.
    rows = [row for row in rows if row["reference"]][:: max(1, len(rows) // count)][:count]

    def ids(messages: list[dict[str, str]]) -> list[int]:
        found: list[int] = pieces.encode("\n".join(message["content"] or "" for message in messages))
        return [number % 31000 + 10 for number in found]

    groups = []
    for row in rows:
        prompt, reference = ids(row["prompt"]), ids(row["reference"])
        prefix = [1, *prompt, *reference, 5, *prompt]
        outputs = row["outputs"][:candidates]
        groups.append([np.array([*prefix, *ids(output["content"]), 6], np.int32) for output in outputs])
    return groups


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


def work(config: Any, tokens: int, attention: int, reads: int | None) -> float:
    """Returns the floating-point operations of the matrix products; ``reads`` where the last layer is pruned."""
    head = config.hidden_size // config.num_attention_heads
    keys = 2 * config.hidden_size * config.num_key_value_heads * head
    rest = 2 * config.hidden_size * config.hidden_size + 3 * config.hidden_size * config.intermediate_size
    layer = 2 * tokens * (keys + rest) + 4 * config.hidden_size * attention
    if reads is None:
        return float(config.num_hidden_layers * layer)
    last = 2 * tokens * keys + 2 * reads * rest
    return float((config.num_hidden_layers - 1) * layer + last)


def matrix_peak(dtype: torch.dtype) -> float:
    """Returns the operations per second of the fastest of some matrix products, through oneDNN with packed weights."""
    best = 0.0
    for rows, inner, columns in ((512, 768, 2048), (1024, 2048, 768), (1024, 1024, 1024)):
        x, weight = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
        weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        for _ in range(8):
            start = time.process_time()
            torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
            seconds = time.process_time() - start
            best = max(best, 2.0 * rows * inner * columns / max(seconds, 1e-9))
    return best * torch.get_num_threads()


@dataclass
class Way:
    """One way of scoring and what was measured of it."""

    name: str
    score: Callable[[Sequence[np.ndarray]], np.ndarray]
    operations: float
    seconds: list[float] = field(default_factory=list)
    scores: np.ndarray | None = None


def measure(sequences: list[np.ndarray], ways: list[Way], dtype: torch.dtype, rounds: int) -> float:
    """Lets the ways take turns; returns the matrix peak."""
    peaks = []
    for number in range(rounds + 1):
        for way in ways:
            # The first round warms up, on a part.
            start = time.process_time()
            scores = way.score(sequences[: 32 if number == 0 else None])
            if number:
                way.seconds.append((time.process_time() - start) / torch.get_num_threads())
                way.scores = scores
        peaks.append(matrix_peak(dtype))
    return max(peaks)


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with gsm8k.parquet, arena_bench_v1.parquet, …")
    parser.add_argument("--sets", nargs="+", default=["gsm8k", "arena_bench_v1", "oasst_n200"])
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.model; default: ../tokenizer/internlm2.model")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", default="abde", help="which ways to measure")
    parser.add_argument("--token-budget", type=int)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: see engine_cuda.py")
    parser.add_argument("--model", choices=sorted(SHAPES), default="polar-100m", help="on cuda only; see shapes.py")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    name: DType = arguments.dtype
    dtype = TORCH_DTYPES[name]

    if arguments.device == "cuda":
        bench = Bench(arguments.model, name, "cuda", arguments.token_budget)
        for part, groups in _sets(arguments).items():
            print_table(bench, part, groups, arguments.rounds, arguments.ways, work)
        return

    plain = polar_like(dtype)
    exact = Engine(polar_like(torch.float32), device="cpu", dtype="float32", path="plain")
    settings: dict[str, Any] = {"device": "cpu", "dtype": name, "token_budget": arguments.token_budget}
    flat = Engine(polar_like(dtype), share=False, **settings)
    shared = Engine(polar_like(dtype), **settings)
    for part, groups in _sets(arguments).items():
        sequences = [ids for group in groups for ids in group]
        flat_plan, shared_plan = flat.plan(sequences), shared.plan(sequences)
        config = plain.backbone.config
        needed = work(config, flat_plan.tokens_given, flat_plan.attention_given, None)
        ways = [
            Way("(a) padded", Plain(plain, by_length=False).score, needed),
            Way("(b) sorted", Plain(plain, by_length=True).score, needed),
            Way("(d) flat", flat.score, work(config, flat_plan.tokens, flat_plan.attention, len(set(flat_plan.last)))),
            Way(
                "(e) shared",
                shared.score,
                work(config, shared_plan.tokens, shared_plan.attention, len(set(shared_plan.last))),
            ),
        ]
        ways = [way for way in ways if way.name[1] in arguments.ways]
        peak = measure(sequences, ways, dtype, arguments.rounds)
        checked = sequences[:: max(1, len(sequences) // 16)]
        expected = exact.score_alone(checked)[:, 0]
        print(
            f"\n{part}: {len(groups)} groups, {len(sequences)} candidates, {flat_plan.tokens_given} tokens given, "
            f"{shared_plan.tokens} computed when shared; {name}, {arguments.threads} thread(s), "
            f"matrix peak {peak / 1e9:.0f} GFLOP/s"
        )
        print(f"{'':12}{'s':>8}{'cand/s':>9}{'tok/s':>9}{'of peak':>9}{'max |Δ|':>10}   times (e)")
        fastest = min(ways[-1].seconds)
        for way in ways:
            seconds = float(np.median(way.seconds))
            assert way.scores is not None
            delta = np.abs(way.scores[:: max(1, len(sequences) // 16), 0] - expected).max()
            print(
                f"{way.name:12}{seconds:>8.2f}{len(sequences) / seconds:>9.1f}"
                f"{flat_plan.tokens_given / seconds:>9.0f}{way.operations / seconds / peak:>9.1%}{delta:>10.1e}"
                f"   {seconds / float(np.median(ways[-1].seconds)):.2f} (best {min(way.seconds) / fastest:.2f})"
            )


def _sets(arguments: argparse.Namespace) -> dict[str, list[list[np.ndarray]]]:
    """Returns the groups of each set."""
    if arguments.data is None:
        return {"generated": generated_groups(arguments.groups, arguments.candidates)}
    tokenizer = arguments.tokenizer or arguments.data.parent / "tokenizer" / "internlm2.model"
    return {
        part: real_groups(arguments.data / f"{part}.parquet", tokenizer, arguments.groups, arguments.candidates)
        for part in arguments.sets
    }


if __name__ == "__main__":
    main()

"""The whole job against the bare engine: what Ray, reading, tokenizing and writing cost beside the model.

    python benchmarks/job.py --data FOLDER [--rows 80] [--rounds 1]

A random model of about 150 million parameters (half of them embeddings) in the POLAR layout scores prompts of GSM8K
(FOLDER holds gsm8k.parquet; the vocabulary is FOLDER/../tokenizer/internlm2.model), each way in a process of its own:

    bare engine         the engine alone, over ids that were made before, split by split as in the job
    job                 `polar-ray run`: read, tokenize, score with one or two actors, rank, write, commit

Candidates/s count from when the model is loaded and checked; the time until then is the start-up. ``of bare`` compares
with the bare engine on as many cores. ``waited`` is what the manifest says of the model's actors.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq
import yaml


@dataclass(frozen=True)
class Way:
    """One way to score: the bare engine has no actors."""

    name: str
    cores: int
    actors: int = 0

    @property
    def cores_per_actor(self) -> int:
        return self.cores // max(1, self.actors)


WAYS = [
    Way("bare engine, 1 core", 1),
    Way("job, 1 actor x 1 core", 1, 1),
    Way("bare engine, 2 cores", 2),
    Way("job, 1 actor x 2 cores", 2, 1),
    Way("job, 2 actors x 1 core", 2, 2),
]


@dataclass(frozen=True)
class Measured:
    """One run: candidates per second once the model was ready, and seconds until then."""

    candidates_per_s: float
    startup_s: float
    waited: float | None = None


def write_model(folder: Path, tokenizer: Path) -> None:
    """Writes a random checkpoint as POLAR's are: InternLM2's names, its vocabulary, a separator and an end token."""
    import torch
    from safetensors.torch import save_file

    from polar_ray.models.internlm2 import expected_shapes, llama_config

    config = {
        "architectures": ["InternLM2ForRewardModel"],
        "model_type": "internlm2",
        "bias": False,
        "bos_token_id": 1,
        "hidden_act": "silu",
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "vocab_size": 92544,
        "reward_token_id": 92527,
    }
    (folder / "config.json").write_text(json.dumps(config))
    token = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {"92397": {"content": "<|reward|>", **token}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True, "added_tokens_decoder": added}))
    shutil.copy(tokenizer, folder / "tokenizer.model")
    torch.manual_seed(0)
    tensors = {
        name: torch.ones(shape) if len(shape) == 1 else torch.randn(shape) * 0.02
        for name, shape in expected_shapes(llama_config(config, folder)).items()
    }
    save_file(tensors, folder / "model.safetensors")


def write_recipe(root: Path, split_rows: int, dtype: str) -> Path:
    """Writes the recipe of all ways."""
    recipe: dict[str, Any] = {
        "input": {
            "path": str(root / "in.parquet"),
            "columns": {"candidates": "outputs"},
            "candidate_fields": {"candidate_id": "output_id", "messages": "content"},
            "split_rows": split_rows,
        },
        "scorer": {
            "kind": "polar",
            "model": str(root / "model"),
            "dtype": dtype,
            "device": "cpu",
            "self_check": "numeric",
        },
        "output": {"path": str(root / "out")},
    }
    path = root / "job.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def run_bare(recipe: Path, threads: int) -> None:
    """Scores all splits with the engine alone and prints what it took; the main function of a process of its own."""
    started = time.perf_counter()
    import torch

    from polar_ray.data.listing import list_input
    from polar_ray.data.parsing import parse_split
    from polar_ray.data.reading import read_source
    from polar_ray.data.sources import plan_sources
    from polar_ray.recipe.recipe import Recipe
    from polar_ray.scorers.encoded import id_lists
    from polar_ray.scorers.polar import PolarScorer

    torch.set_num_threads(threads)
    loaded = Recipe.load(str(recipe))
    scorer = PolarScorer.from_config(loaded.scorer)
    startup = time.perf_counter() - started
    splits = []
    for source in plan_sources(list_input(loaded.input), loaded.input):
        for raw in read_source(source, loaded.input):
            encoded = scorer.encoder.encode(parse_split(raw, loaded.input).groups)
            splits.append([ids for ids in id_lists(encoded) if ids is not None])
    started = time.perf_counter()
    for sequences in splits:
        scorer.engine.score(sequences)
    seconds = time.perf_counter() - started
    candidates = sum(len(sequences) for sequences in splits)
    print(json.dumps({"candidates_per_s": candidates / seconds, "startup_s": startup}))


def measure(way: Way, recipe: Path, output: Path) -> Measured:
    """Runs one way in a process of its own."""
    if not way.actors:
        command = [sys.executable, __file__, "--bare", str(recipe), "--threads", str(way.cores)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        return Measured(**json.loads(done.stdout.splitlines()[-1]))
    command = [sys.executable, "-m", "polar_ray", "run", str(recipe), "--fresh"]
    command += [f"compute.actors={{min: {way.actors}, max: {way.actors}}}"]
    command += [f"compute.cpus_per_actor={way.cores_per_actor}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    manifest = json.loads((output / "manifest.json").read_text())
    scoring_s = manifest["scoring_s"] - manifest["startup_s"]
    startup_s = manifest["duration_s"] - scoring_s
    return Measured(manifest["counts"]["candidates"] / scoring_s, startup_s, manifest["stages"]["score"]["waited"])


def print_table(measured: dict[Way, list[Measured]]) -> None:
    """Prints the medians of the rounds."""
    rates = {way: median(run.candidates_per_s for run in runs) for way, runs in measured.items()}
    bare = {way.cores: rate for way, rate in rates.items() if not way.actors}
    print(f"{'':24}{'candidates/s':>14}{'of bare':>9}{'waited':>8}{'start-up':>10}")
    for way, runs in measured.items():
        waits = [run.waited for run in runs if run.waited is not None]
        share = f"{rates[way] / bare[way.cores]:.1%}" if way.cores in bare else ""
        waited = f"{median(waits):.1%}" if waits else ""
        startup = median(run.startup_s for run in runs)
        print(f"{way.name:24}{rates[way]:>14.2f}{share:>9}{waited:>8}{startup:>8.1f} s")


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with gsm8k.parquet")
    parser.add_argument("--set", default="gsm8k")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.model; default: ../tokenizer/internlm2.model")
    parser.add_argument("--rows", type=int, default=80)
    parser.add_argument("--split-rows", type=int, default=4)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ways", type=int, nargs="+", default=list(range(1, len(WAYS) + 1)), help="1 to 5, as printed")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        run_bare(arguments.bare, arguments.threads)
        return
    if arguments.data is None:
        parser.error("--data is needed")
    ways = [WAYS[number - 1] for number in arguments.ways]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "model").mkdir()
        write_model(root / "model", arguments.tokenizer or arguments.data.parent / "tokenizer" / "internlm2.model")
        rows = pq.read_table(arguments.data / f"{arguments.set}.parquet")
        rows = rows.take(list(range(0, len(rows), max(1, len(rows) // arguments.rows)))[: arguments.rows])
        pq.write_table(rows, root / "in.parquet")
        recipe = write_recipe(root, arguments.split_rows, arguments.dtype)
        measured: dict[Way, list[Measured]] = defaultdict(list)
        for _ in range(arguments.rounds):
            for way in ways:
                measured[way].append(measure(way, recipe, root / "out"))
        candidates = sum(len(row) for row in rows.column("outputs"))
        print(f"{arguments.set}: {len(rows)} prompts, {candidates} candidates, {arguments.dtype}")
        print_table(measured)


if __name__ == "__main__":
    main()

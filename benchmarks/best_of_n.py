"""What best-of-N by reward is worth where right and wrong are known: accuracy by N, beside chance and the best of all.

    python benchmarks/best_of_n.py FOLDER [--sets gsm8k humaneval]

FOLDER holds Parquet files with `prompt_id`, `prompt`, `reference`, `outputs` and `labels` with `correct`. Each set goes
through the whole pipeline: a run with three scorers, and a derivation that combines two of them. A figure is the mean
over prompts of the expected correctness of the candidate that the reward chooses among n, over all subsets of n (the
unbiased estimator; for the best possible it is pass@n of Chen et al., arXiv 2107.03374).

`closeness` compares with the reference, checked answers included, and `similarity` compares text alone. Both see the
right answer, as any reward that reads a reference does; `length` sees the candidate only.
"""

import argparse
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.dataset as ds

from polar_ray.data.scores import read_scores
from polar_ray.deriving.curve import label_of_best
from polar_ray.deriving.derive import derive
from polar_ray.recipe.derive import DeriveRecipe
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.run import run

SCORERS = {
    "closeness": {"kind": "text_closeness"},
    "similarity": {"kind": "text_closeness", "math": False},
    "length": {"kind": "length"},
}
COMBINED = ["similarity", "length"]

Prompts = list[tuple[np.ndarray, dict[str, np.ndarray]]]
"""Labels and rewards by scorer, of the candidates of each prompt."""


def scored(path: Path, folder: Path) -> Prompts:
    """Runs the pipeline over a set."""
    recipe = {
        "input": {
            "path": str(path),
            "columns": {"candidates": "outputs"},
            "candidate_fields": {"candidate_id": "output_id", "messages": "content"},
        },
        "scorers": SCORERS,
        "output": {"path": str(folder / "scores")},
        "compute": {"cpus_per_actor": 0.5},
    }
    run(Recipe.of(recipe))
    combination = {
        "run": {"path": str(folder / "scores")},
        "reward": {"combine": {"scorers": COMBINED}},
        "candidates": {"empty": "keep", "duplicates": "keep"},
        "best_of_n": {"top_k": None, "curve": 0},
        "files": {"format": "parquet"},
        "output": {"path": str(folder / "combined")},
    }
    derive(DeriveRecipe.of(combination))
    picked = ds.dataset(folder / "combined" / "data" / "train").to_table().to_pylist()
    combined = {(row["prompt_id"], row["candidate_id"]): row["reward"] for row in picked}
    prompts: Prompts = []
    for row in read_scores(str(folder / "scores")).to_pylist():
        correct = {entry["output_id"]: entry["correct"] for entry in msgspec.json.decode(row["extra"])["labels"]}
        names = [candidate["candidate_id"] for candidate in row["candidates"]]
        rewards = {name: np.array(row[f"reward_{name}"], np.float64) for name in SCORERS}
        both = [combined.get((row["prompt_id"], name)) for name in names]
        rewards[" + ".join(COMBINED)] = np.array(both, np.float64)
        prompts.append((np.array([correct[name] for name in names], np.float64), rewards))
    return prompts


def table(name: str, prompts: Prompts) -> None:
    """Prints the accuracies of a set."""
    most = min(len(labels) for labels, _ in prompts)
    counts = [2**power for power in range(most.bit_length()) if 2**power <= most]
    counts += [most] if counts[-1] != most else []
    candidates = sum(len(labels) for labels, _ in prompts)
    print(f"\n{name}: {len(prompts):,} prompts, {candidates:,} candidates; accuracy of the best of n, in %")
    print(f"{'':<20}" + "".join(f"{f'n={n}':>8}" for n in counts))
    ways = {"random": [np.zeros(len(labels)) for labels, _ in prompts]}
    ways |= {scorer: [rewards[scorer] for _, rewards in prompts] for scorer in prompts[0][1]}
    ways["oracle"] = [labels for labels, _ in prompts]
    for way, rewards in ways.items():
        curves = [label_of_best(each, labels, most) for each, (labels, _) in zip(rewards, prompts, strict=True)]
        mean = np.mean(curves, axis=0)
        print(f"{way:<20}" + "".join(f"{100 * mean[n - 1]:>8.1f}" for n in counts))


def main() -> None:
    """Prints a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", default=["gsm8k", "humaneval"])
    arguments = parser.parse_args()
    for name in arguments.sets:
        with tempfile.TemporaryDirectory() as folder:
            table(name, scored(arguments.folder / f"{name}.parquet", Path(folder)))


if __name__ == "__main__":
    main()

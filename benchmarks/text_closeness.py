"""How often the text closeness scorer orders two candidates as their labels do, and how fast it is.

    python benchmarks/text_closeness.py FOLDER

FOLDER holds Parquet files with the columns ``prompt_id``, ``reference``, ``outputs`` and ``labels``. The figure is the
share of pairs of candidates of one prompt with different labels that come out in the labels' order; a tie counts half.
Two baselines stand beside it: length, and the F1 of the words (``\\w+``) shared with the reference.
"""

import argparse
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from polar_ray.data.group import Candidate, Group, Message
from polar_ray.recipe.scorers import TextCloseness
from polar_ray.scorers.text_closeness import TextClosenessScorer


def messages(rows: list[dict[str, str]] | None) -> tuple[Message, ...]:
    """Returns the messages of a cell."""
    return tuple(Message(row["role"], row["content"] or "") for row in rows or [])


def label(entry: dict[str, Any]) -> float | None:
    """Returns the label of an output as a number: a score, or 1 and 0 for right and wrong."""
    return next((float(entry[name]) for name in ("score", "correct", "preference") if entry[name] is not None), None)


def labelled_groups(path: Path, most_candidates: int) -> tuple[list[Group], list[np.ndarray]]:
    """Reads groups that have a reference and labels, and the label of each candidate (NaN where it has none)."""
    groups, labels = [], []
    for row in pq.read_table(path, columns=["prompt_id", "reference", "outputs", "labels"]).to_pylist():
        outputs = row["outputs"][:most_candidates]
        by_output = {entry["output_id"]: label(entry) for entry in row["labels"] or []}
        values = np.array([by_output.get(output["output_id"]) for output in outputs], np.float64)
        if row["reference"] and np.isfinite(values).any():
            candidates = tuple(Candidate(output["output_id"], messages(output["content"])) for output in outputs)
            groups.append(Group(row["prompt_id"], (), (messages(row["reference"]),), candidates))
            labels.append(values)
    return groups, labels


def agreement(rewards: list[np.ndarray], labels: list[np.ndarray], gap: float) -> float:
    """Returns the share of pairs with a label gap of at least ``gap`` that the rewards order alike."""
    agree = pairs = 0.0
    for reward, value in zip(rewards, labels, strict=True):
        difference = value[:, None] - value[None, :]
        better = (difference > 0) & (difference >= gap)
        order = np.sign(reward[:, None] - reward[None, :])
        agree += ((order[better] + 1) / 2).sum()
        pairs += better.sum()
    return agree / pairs if pairs else float("nan")


def word_f1(text: str, reference: str) -> float:
    """Returns the F1 of the words that two texts share, as SQuAD's script computes it."""
    words, gold = (Counter(re.findall(r"\w+", side.lower())) for side in (text, reference))
    shared = (words & gold).total() if words and gold else 0
    return 2 * shared / (words.total() + gold.total()) if shared else 0.0


def main() -> None:
    """Prints one line per file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most-candidates", type=int, default=24, help="candidates taken of one prompt")
    options = parser.parse_args()
    print(
        f"{'set':20} {'groups':>6} {'cand.':>6} {'math':>5} | {'length':>6} {'words':>6} {'reward':>6} "
        f"| at a gap of 2: {'words':>6} {'reward':>6} | {'cand./s':>8} {'not ok':>6}"
    )
    for path in sorted(options.folder.glob("*.parquet")):
        groups, labels = labelled_groups(path, options.most_candidates)
        if not groups:
            continue
        scorer = TextClosenessScorer.from_config(TextCloseness())
        started = time.perf_counter()
        scores = scorer.score(groups)
        seconds = time.perf_counter() - started
        scorer.close()
        texts = [[candidate.text for candidate in group.candidates] for group in groups]
        references = ["\n".join(message.content for message in group.references[0]) for group in groups]
        length = [np.array([len(text) for text in row], np.float64) for row in texts]
        words = [np.array([word_f1(text, gold) for text in row]) for row, gold in zip(texts, references, strict=True)]
        reward = [np.array([score.reward for score in row], np.float64) for row in scores]
        count = sum(map(len, texts))
        mathematical = sum(any(score.extras["answer_match"] is not None for score in row) for row in scores)
        not_ok = sum(score.reward is None for row in scores for score in row)
        figures = [100 * agreement(rewards, labels, 0) for rewards in (length, words, reward)]
        wide = [100 * agreement(rewards, labels, 2) for rewards in (words, reward)]
        print(
            f"{path.stem:20} {len(groups):6} {count:6} {mathematical:5} | {figures[0]:6.1f} {figures[1]:6.1f} "
            f"{figures[2]:6.1f} | {'':14} {wide[0]:6.1f} {wide[1]:6.1f} | {count / seconds:8.0f} {not_ok:6}"
        )


if __name__ == "__main__":
    main()

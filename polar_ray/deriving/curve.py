"""The N-curve: the expected reward of the best of n candidates, for n = 1, 2, ...

Of a prompt with N candidates and rewards r_1 <= ... <= r_N the mean over all subsets of n candidates of their best
reward is

    sum over i of  C(i - 1, n - 1) / C(N, n) * r_i

as r_i is the best of exactly C(i - 1, n - 1) of the C(N, n) subsets. It is the unbiased estimator of the expected
best of n draws, which picking n of the N at random only estimates with noise (for 0/1 rewards it is pass@k of Chen et
al., arXiv 2107.03374).
"""

from dataclasses import dataclass

import numpy as np

from polar_ray.deriving.order import Order


@dataclass(frozen=True)
class CurveSums:
    """Sums over prompts that add up over blocks.

    Attributes:
        best: float64 [n], entry n - 1 is the sum of the expected best of n over the prompts with at least n candidates.
        prompts: int64 [n], how many prompts those are.
    """

    best: np.ndarray
    prompts: np.ndarray

    def __add__(self, other: "CurveSums") -> "CurveSums":
        longer, shorter = (self, other) if len(self.best) >= len(other.best) else (other, self)
        missing = len(longer.best) - len(shorter.best)
        return CurveSums(
            longer.best + np.pad(shorter.best, (0, missing)), longer.prompts + np.pad(shorter.prompts, (0, missing))
        )

    def points(self) -> list[dict[str, float]]:
        """Returns n, the mean of the expected best of n, and the number of prompts behind it."""
        return [
            {"n": n, "expected_best": float(best / prompts), "prompts": int(prompts)}
            for n, (best, prompts) in enumerate(zip(self.best, self.prompts, strict=True), 1)
        ]


def curve_sums(order: Order, most: int) -> CurveSums:
    """Returns the sums over the groups of a block, for n up to ``most``."""
    counts = order.counts
    length = min(most, int(counts.max(initial=0)))
    best, prompts = np.zeros(length), np.zeros(length, np.int64)
    for size in np.unique(counts[counts > 0]).tolist():
        groups = np.flatnonzero(counts == size)
        rewards = order.reward[order.starts[groups][:, None] + np.arange(size)]
        reach = min(size, length)
        best[:reach] += best_of_weights(size, reach) @ rewards.sum(axis=0)
        prompts[:reach] += len(groups)
    return CurveSums(best, prompts)


def best_of_weights(size: int, most: int) -> np.ndarray:
    """Returns float64 [n, size] for n = 1..most: the share of the subsets of n in which each candidate is the best.

    Candidates are in the order of falling reward. The best of all is the best of n / size of them; each next one's
    share is that of the one before times (left - n + 1) / left, where left counts the candidates after that one.
    """
    n = np.arange(1, most + 1, dtype=np.float64)[:, None]
    left = np.arange(size - 1, 0, -1, dtype=np.float64)[None, :]
    factors = np.maximum(left - n + 1, 0) / left
    return np.asarray(np.cumprod(np.concatenate([n / size, factors], axis=1), axis=1))


def label_of_best(rewards: np.ndarray, labels: np.ndarray, most: int) -> np.ndarray:
    """Returns the expected label of the candidate that rewards choose among n of a prompt: float64 [n], n = 1..most.

    The same unbiased estimator as the N-curve's, with labels in the place of rewards: the mean over all subsets of n.
    Among equal rewards each is chosen as often; a candidate without a reward only where no other is there.

    Args:
        rewards: float64 [N] of one prompt, NaN where there is none.
        labels: float64 [N], 1 for right and 0 for wrong, say.
        most: At most N.
    """
    known = np.where(np.isnan(rewards), -np.inf, rewards)
    order = np.argsort(-known, kind="stable")
    _, tie, sizes = np.unique(-known[order], return_inverse=True, return_counts=True)
    shared = np.bincount(tie, weights=labels[order]) / sizes
    return np.asarray(best_of_weights(len(rewards), most) @ shared[tie])

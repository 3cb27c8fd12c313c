"""Best-of-n by reward where right and wrong are known: the estimator against all subsets."""

import math
from itertools import combinations
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polar_ray.deriving.curve import label_of_best

REWARDS = st.lists(st.one_of(st.just(math.nan), st.sampled_from([0.0, 0.5, 1.0, -2.0])), min_size=1, max_size=7)


def by_enumeration(rewards: list[float], labels: list[float], n: int) -> float:
    """The mean, over all subsets of n, of the mean label of those that share the best reward."""
    means = []
    for subset in combinations(range(len(rewards)), n):
        known = {i: rewards[i] for i in subset if not math.isnan(rewards[i])}
        best = [i for i, reward in known.items() if reward == max(known.values())] or list(subset)
        means.append(fmean(labels[i] for i in best))
    return fmean(means)


@settings(deadline=None, max_examples=200)
@given(data=st.data(), rewards=REWARDS)
def test_it_is_the_mean_over_all_subsets(data: st.DataObject, rewards: list[float]) -> None:
    label = st.sampled_from([0.0, 1.0])
    labels = data.draw(st.lists(label, min_size=len(rewards), max_size=len(rewards)))
    found = label_of_best(np.array(rewards), np.array(labels), len(rewards))
    expected = [by_enumeration(rewards, labels, n) for n in range(1, len(rewards) + 1)]
    assert found.tolist() == pytest.approx(expected)


def test_by_the_labels_themselves_it_is_pass_at_n() -> None:
    labels = np.array([1.0] * 3 + [0.0] * 97)
    found = label_of_best(labels, labels, 100)
    # Chen et al. (arXiv 2107.03374): 1 - C(N - c, n) / C(N, n).
    expected = [1 - math.comb(97, n) / math.comb(100, n) for n in range(1, 101)]
    assert found.tolist() == pytest.approx(expected)


def test_without_a_preference_it_is_chance_whatever_n_is() -> None:
    labels = np.array([1.0, 0.0, 0.0, 1.0, 0.0])
    assert label_of_best(np.zeros(5), labels, 5).tolist() == pytest.approx([0.4] * 5)

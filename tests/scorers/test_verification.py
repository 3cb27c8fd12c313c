"""Verification holds rewards to plain forwards of single sequences: sampled by the prompt, and added up."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import xxhash

from polar_ray.data.group import Candidate, Group, Message, groups_to_table
from polar_ray.errors import DeviceLost
from polar_ray.models.internlm2 import load_internlm2_reward
from polar_ray.scorers.base import Scores
from polar_ray.scorers.encoded import id_lists
from polar_ray.scorers.polar import PolarScorer
from polar_ray.scorers.verification import Verification, not_rescored, sample, verify

TINY = Path(__file__).parents[1] / "golden" / "polar" / "polar_tiny_a"


def group(number: int, candidates: int = 3, *, reference: bool = True) -> Group:
    return Group(
        prompt_id=f"p{number}",
        prompt=(Message("user", f"What is {number} plus two?"),),
        references=((Message("assistant", f"It is {number + 2}."),),) if reference else (),
        candidates=tuple(
            Candidate(str(place), (Message("assistant", f"{number + place} " * (place + 1)),))
            for place in range(candidates)
        ),
    )


@pytest.fixture(scope="module")
def scorer() -> PolarScorer:
    return PolarScorer.from_pretrained(str(TINY), dtype="float32", device="cpu", self_check="numeric")


GROUPS = [group(number) for number in range(8)]
TABLE = groups_to_table([*GROUPS, group(8, reference=False)])
ROWS = np.arange(8)


@pytest.fixture(scope="module")
def encoded(scorer: PolarScorer) -> pa.Table:
    return scorer.encoder.encode(TABLE)


@pytest.fixture(scope="module")
def scores(scorer: PolarScorer, encoded: pa.Table) -> Scores:
    return scorer.score_table(TABLE, encoded)


def moved(scores: Scores, row: int, by: float | None) -> Scores:
    rewards = scores.reward.to_pylist()
    rewards[row] = None if by is None else rewards[row] + by
    return Scores(pa.array(rewards, pa.float32()), scores.status, scores.tokens, scores.error)


def hash_share(number: int) -> float:
    return xxhash.xxh3_64_intdigest(f"p{number}".encode()) / 2**64


def test_the_sample_is_the_groups_whose_prompts_hash_low(encoded: pa.Table) -> None:
    for share in (0.0, 0.2, 0.5, 0.9):
        expected = [number for number in range(8) if hash_share(number) < share]
        assert sample(TABLE, encoded, share).tolist() == expected


def test_a_group_without_a_sequence_is_never_sampled(encoded: pa.Table) -> None:
    assert sample(TABLE, encoded, 1.0).tolist() == list(range(8))


def test_of_nothing_nothing_is_sampled(scorer: PolarScorer) -> None:
    table = groups_to_table([group(0, reference=False)])
    assert sample(table, scorer.encoder.encode(table), 1.0).tolist() == []


def test_every_candidate_of_the_sample_is_held_to_one_plain_forward(
    scorer: PolarScorer, encoded: pa.Table, scores: Scores
) -> None:
    verified = verify(scorer, TABLE, encoded, scores, ROWS)
    ids = [row for row in id_lists(encoded) if row is not None]
    # Transformers without an engine: one sequence, one forward, the last position, the head.
    model = load_internlm2_reward(TINY, "float32")
    with torch.inference_mode():
        hidden = [model.backbone(torch.tensor([row.tolist()])).last_hidden_state[0, -1] for row in ids]
        plain = [float(model.head(state)) for state in hidden]
    delta = np.abs(np.array(plain) - np.array(scores.reward.to_pylist()[:24]))
    assert (verified.groups, verified.candidates, verified.beyond, verified.failed) == (8, 24, 0, 0)
    assert verified.tolerance == 1e-4
    assert verified.max_delta == pytest.approx(delta.max(), abs=1e-6)
    assert verified.sum_delta == pytest.approx(delta.sum(), abs=1e-5)


def test_a_wrong_reward_is_found_and_its_prompt_named(scorer: PolarScorer, encoded: pa.Table, scores: Scores) -> None:
    verified = verify(scorer, TABLE, encoded, moved(scores, 3 * 4 + 1, 0.5), ROWS)
    assert verified.beyond == 1
    assert verified.worst == "p4"
    assert verified.max_delta == pytest.approx(0.5, abs=1e-3)


def test_a_wrong_reward_outside_the_sample_is_not_looked_at(
    scorer: PolarScorer, encoded: pa.Table, scores: Scores
) -> None:
    verified = verify(scorer, TABLE, encoded, moved(scores, 3 * 4 + 1, 0.5), np.array([0, 5]))
    assert (verified.groups, verified.candidates, verified.beyond) == (2, 6, 0)


def test_the_tolerance_grows_with_the_reward(scorer: PolarScorer, encoded: pa.Table, scores: Scores) -> None:
    small = verify(scorer, TABLE, encoded, moved(scores, 0, 9e-5), np.array([0]))
    size = max(1, abs(scores.reward[0].as_py()))
    large = verify(scorer, TABLE, encoded, moved(scores, 0, 3e-4 * size), np.array([0]))
    assert (small.beyond, large.beyond) == (0, 1)


def test_a_reward_that_is_finite_in_one_way_only_is_beyond(
    scorer: PolarScorer, encoded: pa.Table, scores: Scores
) -> None:
    lost = moved(scores, 7, None)
    status = scores.status.to_pylist()
    status[7] = "non_finite"
    lost = Scores(lost.reward, pa.array(status), scores.tokens, scores.error)
    verified = verify(scorer, TABLE, encoded, lost, ROWS)
    assert (verified.beyond, verified.candidates, verified.worst) == (1, 23, "p2")


def test_a_candidate_without_a_reward_for_a_reason_is_left_out(
    scorer: PolarScorer, encoded: pa.Table, scores: Scores
) -> None:
    status = scores.status.to_pylist()
    status[7] = "error"
    some = Scores(moved(scores, 7, None).reward, pa.array(status), scores.tokens, scores.error)
    verified = verify(scorer, TABLE, encoded, some, ROWS)
    assert (verified.beyond, verified.candidates, verified.failed) == (0, 23, 0)


def test_a_sequence_that_cannot_be_scored_again_is_told_and_harms_nothing(
    scorer: PolarScorer, encoded: pa.Table, scores: Scores
) -> None:
    # Ids outside the vocabulary are refused.
    index = encoded.schema.get_field_index("ids")
    ids = encoded.column("ids").to_pylist()
    broken = encoded.set_column(index, "ids", pa.array([[10**6], *ids[1:]], encoded.schema.field("ids").type))
    verified = verify(scorer, TABLE, broken, scores, ROWS)
    assert (verified.candidates, verified.failed, verified.beyond) == (21, 3, 0)
    assert "vocabulary has 1000" in (verified.error or "")
    alone = verify(scorer, TABLE, broken, scores, np.array([0]))
    assert (alone.candidates, alone.failed, alone.groups) == (0, 3, 1)


def test_sums_do_not_depend_on_the_order() -> None:
    parts = [
        Verification(1e-4, groups=1, candidates=2, sum_delta=0.25, max_delta=0.25, worst="a"),
        Verification(1e-4, groups=2, candidates=3, sum_delta=0.5, max_delta=0.25, worst="b", beyond=1),
        Verification(1e-4),
    ]
    expected = Verification(1e-4, groups=3, candidates=5, beyond=1, sum_delta=0.75, max_delta=0.25, worst="b")
    assert parts[0] + parts[1] + parts[2] == expected
    assert parts[2] + (parts[1] + parts[0]) == expected


def test_a_prompt_that_is_named_as_the_worst_is_beyond_the_tolerance_where_any_is() -> None:
    # Finite in one way only: there is no difference that could be larger than the other's.
    lost = Verification(1e-4, groups=1, candidates=1, beyond=1, worst="lost")
    good = Verification(1e-4, groups=1, candidates=2, sum_delta=1e-6, max_delta=1e-6, worst="unharmed")
    for both in (lost + good, good + lost):
        assert (both.beyond, both.worst, both.max_delta) == (1, "lost", 1e-6)


def test_a_large_reward_that_is_within_its_tolerance_is_not_the_worst(
    scorer: PolarScorer, encoded: pa.Table, scores: Scores
) -> None:
    size = np.abs(scores.reward.to_numpy(zero_copy_only=False)[:24])
    large, small = int(size.argmax()), int(size.argmin())
    assert size[large] > 1
    assert large // 3 != small // 3
    # 0.95 of the tolerance for the one, 1.2 of it for the other.
    by_large, by_small = 0.95e-4 * size[large], 1.2e-4 * max(1.0, size[small])
    assert by_large > by_small
    moved_both = moved(moved(scores, large, by_large), small, by_small)
    verified = verify(scorer, TABLE, encoded, moved_both, ROWS)
    assert (verified.beyond, verified.worst) == (1, f"p{small // 3}")


def test_devices_that_are_lost_while_verifying_are_not_taken_for_a_candidate_that_failed(
    encoded: pa.Table, scores: Scores
) -> None:
    # Nothing can be scored on them any more: the next split must not be the one that finds out.
    spread = PolarScorer.from_pretrained(str(TINY), dtype="float32", device="cpu", self_check="numeric", ranks=2)
    assert verify(spread, TABLE, encoded, scores, ROWS).beyond == 0
    spread.engine.close()
    with pytest.raises(DeviceLost):
        verify(spread, TABLE, encoded, scores, ROWS)


def test_a_sample_that_was_left_alone_counts_what_it_would_have_compared(scores: Scores) -> None:
    status = scores.status.to_pylist()
    status[7] = "error"
    some = Scores(scores.reward, pa.array(status), scores.tokens, scores.error)
    left = not_rescored(1e-4, TABLE, some, np.array([0, 2]), "it was not to be")
    assert left == Verification(1e-4, groups=2, failed=5, error="it was not to be")
    assert not_rescored(1e-4, TABLE, some, np.array([], np.int64), "no reason") == Verification(1e-4)

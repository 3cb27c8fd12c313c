"""POLAR's rewards, held to those of the original code."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polar_ray.data.group import Candidate, Group, Message, groups_to_table
from polar_ray.data.status import Status
from polar_ray.recipe.scorers import Polar
from polar_ray.scorers.catalog import make_encoder, make_scorer
from polar_ray.scorers.polar import PolarScorer

torch.set_num_threads(1)
GOLDEN = Path(__file__).parents[1] / "golden" / "polar"
CASES = json.loads((GOLDEN / "polar_end_to_end.json").read_text())["cases"]
DEFAULTS = json.loads((GOLDEN / "encode_cases.json").read_text())["defaults"]
# These hold control tokens, which stay text here, or limits that are refused here.
DIFFERENT = ("inject_", "looks_like_bos", "cut_default_specials", "cut_left_specials", "cut_right_specials", "quirk_")


def messages(value: Any) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message("user", value),)
    return tuple(Message(message.get("role", ""), message["content"]) for message in value)


def text_group(prompt: str, references: list[str], candidates: list[str]) -> Group:
    return Group(
        "p",
        messages(prompt),
        tuple(messages(reference) for reference in references),
        tuple(Candidate(str(number), messages(text)) for number, text in enumerate(candidates)),
    )


def load(name: str = "polar_tiny_a", **settings: Any) -> PolarScorer:
    return PolarScorer.from_pretrained(
        GOLDEN / name, **{"dtype": "float32", "device": "cpu", "self_check": "numeric"} | settings
    )


@pytest.mark.parametrize("name", ["polar_tiny_a", "polar_tiny_b"])
def test_text_in_reward_out_is_the_originals(name: str) -> None:
    scorers: dict[str, PolarScorer] = {}
    done = 0
    for case in CASES:
        if case["name"].startswith(DIFFERENT):
            continue
        wrapper = "pretrain" if case["data"].get("wrapper") == "pretrain" else "sft"
        settings = {**DEFAULTS[case["client"]], **case["init"], "wrapper": wrapper}
        scorer = scorers.setdefault(str(settings), load(name, **settings))
        data = case["data"]
        group = Group(
            "p", messages(data["prompt"]), (messages(data["reference"]),), (Candidate("0", messages(data["output"])),)
        )
        ((score,),) = scorer.score([group])
        assert score.reward == pytest.approx(case["rewards"][name], abs=1e-4), case["name"]
        done += 1
    assert done >= 40


def test_a_text_that_holds_the_separator_does_not_score_as_the_original_let_it() -> None:
    # T18: parsing it would give the original's number.
    case = next(case for case in CASES if case["name"] == "inject_separator")
    data = case["data"]
    ((score,),) = load().score([text_group(data["prompt"], [data["reference"]], [data["output"]])])
    assert score.reward is not None
    assert abs(score.reward - case["rewards"]["polar_tiny_a"]) > 0.1


def test_several_references_give_the_first_the_highest_or_the_mean_reward() -> None:
    references, candidates = ["Beijing.", "It is Beijing.", "Peking"], ["Beijing.", "Shanghai.", "I do not know."]
    prompt = "What is the capital of China?"
    alone = np.array(
        [
            [score.reward for score in load().score([text_group(prompt, [reference], candidates)])[0]]
            for reference in references
        ]
    )
    group = text_group(prompt, references, candidates)
    for setting, expected in (("first", alone[0]), ("max", alone.max(axis=0)), ("mean", alone.mean(axis=0))):
        (scores,) = load(references=setting).score([group])
        np.testing.assert_allclose([score.reward for score in scores], expected, atol=1e-4, rtol=0)


def test_tokens_count_every_reference() -> None:
    scorer = load()
    group = text_group("p", ["r", "r r"], ["o"])
    lengths = [len(ids) for ids in scorer.encoder.encode(groups_to_table([group])).column("ids").to_pylist()]
    assert scorer.score([group])[0][0].tokens == sum(lengths)


def test_a_group_without_a_reference_has_no_reward() -> None:
    scores = load().score([text_group("p", [], ["o", "x"]), text_group("p", ["r"], ["o"])])
    assert [[(score.status, score.reward is None) for score in group] for group in scores] == [
        [(Status.NO_REFERENCE, True)] * 2,
        [(Status.OK, False)],
    ]


def test_a_cut_candidate_has_a_reward_and_is_marked_truncated() -> None:
    scorer = load(max_length=100, max_response_length=16)
    (scores,) = scorer.score([text_group("p", ["r"], ["o", "one two three " * 20])])
    assert [score.status for score in scores] == [Status.OK, Status.TRUNCATED]
    assert all(score.reward is not None for score in scores)


def test_permuting_candidates_permutes_rewards() -> None:
    candidates = ["Beijing.", "Shanghai.", "It is Beijing, of course, and has been for long.", "", "Beijing."]
    order = [3, 1, 4, 0, 2]
    scorer = load()
    prompt, reference = "What is the capital of China?", "Beijing."
    (plain,) = scorer.score([text_group(prompt, [reference], candidates)])
    (permuted,) = scorer.score([text_group(prompt, [reference], [candidates[place] for place in order])])
    expected = [plain[place].reward for place in order]
    np.testing.assert_allclose([score.reward for score in permuted], expected, atol=1e-4, rtol=0)


def test_one_candidate_of_one_group_comes_back_as_one_list_in_one_list() -> None:
    # T24
    scores = load().score([text_group("p", ["r"], ["o"])])
    assert [len(group) for group in scores] == [1]
    assert isinstance(scores[0][0].reward, float)


def test_no_groups_give_no_scores() -> None:
    assert load().score([]) == []


def test_the_catalog_makes_encoder_and_scorer_that_fit() -> None:
    config = Polar(model=str(GOLDEN / "polar_tiny_b"), dtype="float32", device="cpu", self_check="numeric")
    table = groups_to_table([text_group("What is the capital of China?", ["Beijing."], ["Beijing.", "Shanghai."])])
    encoder, scorer = make_encoder(config), make_scorer(config)
    assert encoder is not None
    scores = scorer.score_table(table, encoder.encode(table))
    rewards = {case["name"]: case["rewards"]["polar_tiny_b"] for case in CASES}
    np.testing.assert_allclose(
        scores.reward.to_numpy(), [rewards["readme_same"], rewards["readme_diff"]], atol=1e-4, rtol=0
    )

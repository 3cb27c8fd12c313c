"""Law 4: a reward does not depend on what it is scored beside, and permuting candidates permutes their scores."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polar_ray.data.group import Candidate, Group, Message, groups_to_table
from polar_ray.engine.device import MOST_ROUNDING, USUAL_ROUNDING
from polar_ray.recipe.recipe import Recipe
from polar_ray.scorers.base import Encoder, Scorer
from polar_ray.scorers.catalog import make_encoder, make_scorer

torch.set_num_threads(1)
GOLDEN = Path(__file__).parents[1] / "golden"
MODEL = {"dtype": "float32", "device": "cpu", "self_check": "numeric"}
HEADS = {
    "llama": "tok_llama3_no_bos_in_template",
    "gemma2": "tok_llama3_bos_in_template",
    "qwen2": "tok_qwen2",
}
SCORERS: dict[str, dict[str, Any]] = {
    "length": {"kind": "length"},
    "text_closeness": {"kind": "text_closeness"},
    "polar": {"kind": "polar", "model": GOLDEN / "polar" / "polar_tiny_a", **MODEL},
    "polar of another shape": {"kind": "polar", "model": GOLDEN / "polar" / "polar_tiny_b", **MODEL},
    "internlm2_reward": {"kind": "internlm2_reward", "model": GOLDEN / "polar" / "internlm2_reward_tiny", **MODEL},
    **{name: {"kind": "sequence_classifier", "model": name, **MODEL} for name in HEADS},
}
HALF = ["bfloat16", "float16"]
TEXTS = [
    "Beijing.",
    "",
    "The answer is 42.",
    "我不知道。",
    "It is either Beijing or Shanghai, " * 8,
    "<|reward|> [UNUSED_TOKEN_130] </s>",
    "42",
    "a\n\nb\tc  ",
]
GROUPS = [
    Group("long", (Message("user", "What is the capital of China? " * 6),), ((Message("assistant", "Beijing."),),), ()),
    Group("short", (Message("user", "6 * 7?"),), ((Message("assistant", "6 * 7 = 42, so \\boxed{42}"),),), ()),
    Group(
        "turns",
        (Message("user", "Hello"), Message("assistant", "Yes?"), Message("user", "Where am I?")),
        ((Message("assistant", "Here."),), (Message("assistant", "I cannot know that."),)),
        (),
    ),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Classifiers with the tokenizers that their golden data was made with, each in one folder."""
    made = {}
    for name, tokenizer in HEADS.items():
        made[name] = tmp_path_factory.mktemp(name)
        for source in (GOLDEN / "heads" / f"ckpt_{name}_seqcls", GOLDEN / "heads" / tokenizer):
            for file in source.iterdir():
                (made[name] / file.name).write_bytes(file.read_bytes())
    return made


@cache
def scorer_of(name: str, model: Path | str, dtype: str = "float32") -> tuple[Scorer, Encoder | None]:
    settings = {**SCORERS[name]}
    if "model" in settings:
        settings |= {"model": str(model), "dtype": dtype}
    config = Recipe.of({"input": {"path": "x"}, "scorer": settings, "output": {"path": "y"}}).scorer
    assert config is not None
    return make_scorer(config), make_encoder(config)


def scores_of(name: str, folders: dict[str, Path], groups: list[Group], dtype: str = "float32") -> list[list[Any]]:
    """Scores as the job does: all groups as one table."""
    model = SCORERS[name].get("model", "")
    scorer, encoder = scorer_of(name, folders.get(model, model) if isinstance(model, str) else model, dtype)
    table = groups_to_table(groups)
    scores = scorer.score_table(table, None if encoder is None else encoder.encode(table))
    columns = zip(scores.reward.to_pylist(), scores.status.to_pylist(), scores.tokens.to_pylist(), strict=True)
    return [[next(columns) for _ in group.candidates] for group in groups]


def group_with(group: int, texts: list[int]) -> Group:
    base = GROUPS[group]
    candidates = tuple(Candidate(str(n), (Message("assistant", TEXTS[text]),)) for n, text in enumerate(texts))
    return Group(f"{base.prompt_id}-{group}", base.prompt, base.references, candidates)


def assert_same(got: list[Any], expected: list[Any], tolerance: float) -> None:
    for (reward, *rest), (alone, *rest_alone) in zip(got, expected, strict=True):
        assert rest == rest_alone
        assert (reward is None) == (alone is None)
        if reward is not None:
            assert abs(reward - alone) <= tolerance * max(1.0, abs(alone))


def tolerance_of(name: str, dtype: str = "float32") -> float:
    rounding = USUAL_ROUNDING if dtype == "float32" else MOST_ROUNDING
    return rounding[dtype] if "model" in SCORERS[name] else 0.0


CHOICES = st.lists(
    st.tuples(st.integers(0, len(GROUPS) - 1), st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=5)),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("name", list(SCORERS))
@settings(deadline=None, max_examples=10)
@given(choices=CHOICES)
def test_a_candidate_scores_beside_others_as_it_scores_alone(
    folders: dict[str, Path], name: str, choices: list[tuple[int, list[int]]]
) -> None:
    together = scores_of(name, folders, [group_with(*choice) for choice in choices])
    for (group, texts), scores in zip(choices, together, strict=True):
        alone = [scores_of(name, folders, [group_with(group, [text])])[0][0] for text in texts]
        assert_same(scores, alone, tolerance_of(name))


@pytest.mark.parametrize("name", list(SCORERS))
@settings(deadline=None, max_examples=10)
@given(group=st.integers(0, len(GROUPS) - 1), order=st.permutations(range(len(TEXTS))))
def test_permuting_the_candidates_permutes_their_scores(
    folders: dict[str, Path], name: str, group: int, order: list[int]
) -> None:
    (straight,) = scores_of(name, folders, [group_with(group, list(range(len(TEXTS))))])
    (permuted,) = scores_of(name, folders, [group_with(group, order)])
    assert_same(permuted, [straight[place] for place in order], tolerance_of(name))


@pytest.mark.parametrize("name", list(SCORERS))
@settings(deadline=None, max_examples=5)
@given(order=st.permutations(range(len(GROUPS))))
def test_permuting_the_groups_permutes_their_scores(folders: dict[str, Path], name: str, order: list[int]) -> None:
    groups = [group_with(group, [0, 2, 4]) for group in range(len(GROUPS))]
    straight = scores_of(name, folders, groups)
    permuted = scores_of(name, folders, [groups[place] for place in order])
    for scores, place in zip(permuted, order, strict=True):
        assert_same(scores, straight[place], tolerance_of(name))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", ["polar", "internlm2_reward", "llama", "gemma2", "qwen2"])
def test_company_stays_within_what_is_written_down_for_half_precision(
    folders: dict[str, Path], name: str, dtype: str
) -> None:
    groups = [group_with(group, list(range(len(TEXTS)))) for group in range(len(GROUPS))]
    together = scores_of(name, folders, groups, dtype)
    for group, scores in enumerate(together):
        alone = [scores_of(name, folders, [group_with(group, [text])], dtype)[0][0] for text in range(len(TEXTS))]
        assert_same(scores, alone, tolerance_of(name, dtype))


@pytest.mark.parametrize("name", list(SCORERS))
def test_the_scores_are_worth_comparing(folders: dict[str, Path], name: str) -> None:
    """Different texts have rewards that lie much further apart than the tolerance."""
    (scores,) = scores_of(name, folders, [group_with(0, list(range(len(TEXTS))))])
    rewards = np.array([reward for reward, *_ in scores if reward is not None])
    assert len(rewards) == len(TEXTS)
    assert np.ptp(rewards) > 100 * tolerance_of(name)
    assert len(np.unique(rewards)) >= 4

"""What a reward model must show when it starts, before it scores anything that counts."""

from typing import TYPE_CHECKING

import numpy as np

from polar_ray.data.group import Candidate, Group, Message, groups_to_table
from polar_ray.engine.device import allowed_rounding
from polar_ray.errors import SelfCheckError
from polar_ray.recipe.scorers import KnownScore
from polar_ray.scorers.encoded import id_lists

if TYPE_CHECKING:
    from polar_ray.scorers.reward_model import RewardModelScorer


def check_scorer(scorer: "RewardModelScorer") -> None:
    """Checks that ids fit the model, that rewards are finite and independent of company, and the known order or values.

    Raises:
        SelfCheckError: One of them does not hold; the message has the numbers.
    """
    name = f"{scorer.config.kind} with {scorer.config.model}"
    sequences = _probe_sequences(scorer, name)
    _check_vocabulary(scorer, name, sequences)
    _check_company(scorer, name, sequences)
    if scorer.config.self_check == "order":
        _check_order(scorer, name)
    for known in scorer.config.known_scores:
        _check_known(scorer, name, known)


def _probe_sequences(scorer: "RewardModelScorer", name: str) -> list[np.ndarray]:
    texts = ("Yes.", "Yes. " + "The first of them is larger than the second by exactly one. " * 3)
    table = groups_to_table([scorer.known_order(), plain_group("Is two more than one?", texts, "Yes, it is.")])
    encoded = scorer.encoder.encode(table)
    sequences = [ids for ids in id_lists(encoded) if ids is not None]
    if len(sequences) < 2:
        raise SelfCheckError(
            f"{name}: none of the short examples of the self-check could be encoded "
            f"({', '.join(sorted(set(encoded.column('status').to_pylist())))}). Raise max_length."
        )
    return sequences


def _check_vocabulary(scorer: "RewardModelScorer", name: str, sequences: list[np.ndarray]) -> None:
    largest = max(int(ids.max()) for ids in sequences)
    if largest >= scorer.engine.vocab_size:
        raise SelfCheckError(
            f"{name}: the tokenizer gives id {largest}, but the model's vocabulary has {scorer.engine.vocab_size}. "
            "Tokenizer and weights do not belong together; download the model again."
        )


def _check_company(scorer: "RewardModelScorer", name: str, sequences: list[np.ndarray]) -> None:
    together = scorer.engine.score(sequences)
    if not np.isfinite(together).all():
        raise SelfCheckError(
            f"{name}: the rewards of ordinary short texts in {scorer.engine.dtype} are {together[:, 0].tolist()}. "
            "The weights are damaged, or the dtype's range is too small for this model: try bfloat16 or float32."
        )
    alone = np.concatenate([scorer.engine.score([ids]) for ids in sequences])
    relative = (np.abs(alone - together) / np.maximum(1.0, np.abs(alone))).max(axis=1)
    tolerance = allowed_rounding(relative, scorer.engine.dtype)
    worst = int(relative.argmax())
    if relative[worst] > tolerance:
        raise SelfCheckError(
            f"{name}: a text scores {alone[worst].tolist()} alone and {together[worst].tolist()} beside others; "
            f"{scorer.engine.dtype} allows {tolerance} relative to the reward. The attention implementation in use "
            "lets padding through: report this with the output of 'polar-ray env'."
        )


def _check_order(scorer: "RewardModelScorer", name: str) -> None:
    good, bad = scorer.score([scorer.known_order()])[0]
    if good.reward is None or bad.reward is None:
        raise SelfCheckError(f"{name}: the known pair got the statuses {good.status.value} and {bad.status.value}.")
    if good.reward <= bad.reward:
        texts = [candidate.text for candidate in scorer.known_order().candidates]
        raise SelfCheckError(
            f"{name}: the good answer {texts[0]!r} scores {good.reward:.4f} and the bad one {texts[1]!r} scores "
            f"{bad.reward:.4f}. The weights, the tokenizer or the dtype are not what this scorer expects. For a model "
            "whose order is not known, set self_check: numeric."
        )


def _check_known(scorer: "RewardModelScorer", name: str, known: KnownScore) -> None:
    got = scorer.score([plain_group(known.prompt, (known.candidate,), known.reference)])[0][0]
    if got.reward is None or abs(got.reward - known.reward) > known.tolerance:
        raise SelfCheckError(
            f"{name}: known_scores says {known.reward} ± {known.tolerance} for {known.candidate[:60]!r}, but the "
            f"reward is {got.reward} (status {got.status.value}). Check the model's revision and dtype, or correct "
            "known_scores."
        )


def plain_group(prompt: str, candidates: tuple[str, ...], reference: str | None = None) -> Group:
    """Returns a group of one user message and one assistant message per candidate."""
    return Group(
        prompt_id="self-check",
        prompt=(Message("user", prompt),),
        references=() if reference is None else ((Message("assistant", reference),),),
        candidates=tuple(
            Candidate(str(number), (Message("assistant", text),)) for number, text in enumerate(candidates)
        ),
    )

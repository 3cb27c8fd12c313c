"""The length penalty on rewards."""

from dataclasses import replace

from polar_ray.deriving.block import Block
from polar_ray.deriving.texts import Texts
from polar_ray.recipe.selections import LengthPenalty


def penalised(block: Block, penalty: LengthPenalty | None, texts: Texts) -> Block:
    """Returns the block with ``reward - weight x length`` as its rewards; null rewards stay null.

    Other scorers' rewards and the column with the reference's reward are left as they are.
    """
    if penalty is None:
        return block
    length = block.tokens if penalty.per == "token" else texts.characters
    assert length is not None, "tokens are read where the penalty needs them"
    return replace(block, reward=block.reward - penalty.weight * length)

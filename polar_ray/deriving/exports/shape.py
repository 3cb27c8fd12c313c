"""What a format can hold: the shape that prompts and candidates must have.

A row that a trainer would drop in silence, or read as something else, is not written; the ledger says so.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.data.arrays import lengths_of, offsets
from polar_ray.deriving.texts import Texts
from polar_ray.recipe.exports import (
    Axolotl,
    Export,
    LlamaFactory,
    OpenRLHF,
    Polar,
    Task,
    TrlPreference,
    TrlUnpaired,
    Verl,
)

KNOWN_ROLES = pa.array(["system", "user", "assistant", "tool"])


@dataclass(frozen=True)
class Shape:
    """What a format asks for.

    Attributes:
        one_user_message: The prompt is a single message of the user.
        known_roles: The prompt has no roles but system, user, assistant and tool.
        alternating: The prompt is an optional system message, then user and assistant in turns, the user last.
        one_answer: The candidate is a single message of the assistant.
        reference: There is a reference.
    """

    one_user_message: bool = False
    known_roles: bool = False
    alternating: bool = False
    one_answer: bool = False
    reference: bool = False

    def __bool__(self) -> bool:
        return self != Shape()

    def fits(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """Returns which prompts (bool [G]) and which candidates (bool [C]) the format can hold."""
        roles = texts.prompt.values.field("role")
        is_user, is_assistant, is_system = (
            pc.equal(roles, role).to_numpy(zero_copy_only=False) for role in ("user", "assistant", "system")
        )
        sizes = lengths_of(texts.prompt)
        starts = offsets(sizes)
        group = np.repeat(np.arange(len(sizes)), sizes)
        prompts = np.ones(len(sizes), bool)
        if self.one_user_message:
            prompts &= (sizes == 1) & (np.bincount(group[is_user], minlength=len(sizes)) == 1)
        if self.known_roles:
            unknown = ~pc.is_in(roles, KNOWN_ROLES).to_numpy(zero_copy_only=False)
            prompts &= np.bincount(group[unknown], minlength=len(sizes)) == 0
        if self.alternating:
            position = np.arange(len(group)) - starts[group]
            has_system = np.zeros(len(sizes), bool)
            has_system[group[is_system & (position == 0)]] = True
            turn = position - has_system[group]
            fine = np.where(turn < 0, is_system, np.where(turn % 2 == 0, is_user, is_assistant))
            prompts &= np.bincount(group[~fine], minlength=len(sizes)) == 0
            prompts &= (sizes - has_system) % 2 == 1
        if self.reference:
            prompts &= lengths_of(texts.references) > 0
        candidates = np.ones(len(texts.messages), bool)
        if self.one_answer:
            counts = lengths_of(texts.messages)
            answers = pc.equal(texts.messages.values.field("role"), "assistant").to_numpy(zero_copy_only=False)
            owner = np.repeat(np.arange(len(counts)), counts)
            candidates &= (counts == 1) & (np.bincount(owner[answers], minlength=len(counts)) == 1)
        return prompts, candidates


def shape_of(export: Export, task: Task) -> Shape:
    """Returns what a format asks for."""
    match export:
        case TrlPreference(style="standard") | TrlUnpaired(style="standard"):
            return Shape(one_user_message=True, one_answer=True)
        case TrlPreference(prompt="implicit"):
            # TRL takes as the prompt what the two conversations begin with.
            return Shape(one_answer=True)
        case Polar():
            return Shape(reference=True)
        case OpenRLHF():
            return Shape(one_answer=True)
        case Axolotl():
            # It takes the last message of an answer, and stops at a role that it has no name for.
            return Shape(known_roles=True, one_answer=task == "pairs")
        case LlamaFactory():
            return Shape(alternating=True, one_answer=True)
        case Verl() if task == "pairs":
            return Shape(one_user_message=True, one_answer=True)
        case _:
            return Shape()

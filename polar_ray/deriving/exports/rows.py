"""Rows of a derived dataset as columns: what an export shapes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.data.arrays import lengths_of, offsets
from polar_ray.data.group import MESSAGE
from polar_ray.deriving.block import Block
from polar_ray.deriving.pairs import MadePairs
from polar_ray.deriving.picks import GOOD, Picks
from polar_ray.deriving.texts import Texts

Columns = dict[str, pa.Array]


@dataclass(frozen=True)
class PairRows:
    """Pairs with their texts; each property has one entry per pair."""

    block: Block
    pairs: MadePairs
    texts: Texts

    @cached_property
    def prompt(self) -> pa.ListArray:
        """``MESSAGES``."""
        return self.texts.prompt.take(pa.array(self.pairs.group))

    @cached_property
    def reference(self) -> pa.ListArray:
        """``MESSAGES``: the first reference."""
        # Prompts without any are in no pair, and have no first element either.
        return pc.list_element(self.texts.references.take(pa.array(self.pairs.group)), 0)

    @cached_property
    def chosen(self) -> pa.ListArray:
        """``MESSAGES``."""
        return self.texts.messages.take(pa.array(self.pairs.chosen))

    @cached_property
    def rejected(self) -> pa.ListArray:
        """``MESSAGES``."""
        return self.texts.messages.take(pa.array(self.pairs.rejected))

    @cached_property
    def margin(self) -> pa.Array:
        """float64."""
        return pa.array(self.pairs.margin)

    def provenance(self) -> Columns:
        """Ids, models and rewards; with combined scorers, their disagreement."""
        chosen, rejected = pa.array(self.pairs.chosen), pa.array(self.pairs.rejected)
        columns = {
            "prompt_id": self.block.prompt_ids.take(pa.array(self.pairs.group)),
            "chosen_id": self.texts.candidate_id.take(chosen),
            "rejected_id": self.texts.candidate_id.take(rejected),
            "chosen_model": _models(self.texts, chosen),
            "rejected_model": _models(self.texts, rejected),
            "chosen_reward": pa.array(self.block.reward[self.pairs.chosen]),
            "rejected_reward": pa.array(self.block.reward[self.pairs.rejected]),
        }
        if self.block.disagreement is not None:
            columns["chosen_disagreement"] = _known(self.block.disagreement[self.pairs.chosen])
            columns["rejected_disagreement"] = _known(self.block.disagreement[self.pairs.rejected])
        return columns


@dataclass(frozen=True)
class PickRows:
    """Selected or labelled candidates with their texts; each property has one entry per candidate."""

    block: Block
    picks: Picks
    texts: Texts

    @cached_property
    def prompt(self) -> pa.ListArray:
        """``MESSAGES``."""
        return self.texts.prompt.take(pa.array(self.picks.group))

    @cached_property
    def completion(self) -> pa.ListArray:
        """``MESSAGES``."""
        return self.texts.messages.take(pa.array(self.picks.candidate))

    @cached_property
    def is_good(self) -> pa.Array:
        """bool, for picks with labels of which none is unsure."""
        return pc.equal(self.label, GOOD)

    @cached_property
    def label(self) -> pa.StringArray:
        """string, for picks with labels."""
        assert self.picks.label is not None
        return pa.array(self.picks.label.tolist(), pa.string())

    def provenance(self) -> Columns:
        """Ids, model, reward, and where it stands among the prompt's candidates; with combined scorers, their
        disagreement."""
        candidate = pa.array(self.picks.candidate)
        columns = {
            "prompt_id": self.block.prompt_ids.take(pa.array(self.picks.group)),
            "candidate_id": self.texts.candidate_id.take(candidate),
            "model": _models(self.texts, candidate),
            "reward": pa.array(self.block.reward[self.picks.candidate]),
            "z_score": pa.array(self.picks.z_score),
            "place": pa.array(self.picks.place),
        }
        if self.block.disagreement is not None:
            columns["disagreement"] = _known(self.block.disagreement[self.picks.candidate])
        if self.picks.label is not None:
            columns["candidate_label"] = self.label
        return columns


def _known(values: np.ndarray) -> pa.Array:
    """float64, null for NaN: what is not known."""
    return pa.array(values, from_pandas=True)


def _models(texts: Texts, candidates: pa.Array) -> pa.StringArray:
    """The models' names, "" where they are not known: readers of JSON lines take the type of a column from its first
    values, and would trip over a name after many nulls."""
    return pc.fill_null(texts.model.take(candidates), "")


def joined(first: pa.ListArray, second: pa.ListArray) -> pa.ListArray:
    """Returns each list of the first followed by the list of the second at the same place; neither has nulls."""
    sizes = np.stack([lengths_of(first), lengths_of(second)], axis=1).ravel()
    values = pa.concat_arrays([first.flatten(), second.flatten()])
    # Where each piece begins in the values, in the order in which the pieces are wanted.
    begins = np.stack([offsets(sizes[0::2])[:-1], offsets(sizes[1::2])[:-1] + int(sizes[0::2].sum())], axis=1).ravel()
    ends = offsets(sizes)
    positions = np.arange(ends[-1]) - np.repeat(ends[:-1] - begins, sizes)
    totals = sizes[0::2] + sizes[1::2]
    return pa.ListArray.from_arrays(pa.array(offsets(totals), pa.int32()), values.take(pa.array(positions)))


def content_of(messages: pa.ListArray) -> pa.StringArray:
    """Returns the contents of each list of messages, joined by newlines."""
    values = messages.flatten().field("content")
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets(lengths_of(messages)), pa.int32()), values), "\n")


def only_message(messages: pa.ListArray) -> pa.StructArray:
    """Returns the one message of each list, with ``MESSAGE``."""
    assert bool((lengths_of(messages) == 1).all()), "the export asked for single messages"
    return messages.flatten().cast(MESSAGE)


def list_of_one(values: pa.Array) -> pa.ListArray:
    """Returns each value as a list of one."""
    return pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1), pa.int32()), values)

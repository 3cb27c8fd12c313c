"""What every scorer with a reward model shares: loading, scoring a table, and its fingerprint."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from typing_extensions import Self

from polar_ray.data.group import Group, groups_to_table
from polar_ray.data.status import Status
from polar_ray.engine.device import USUAL_ROUNDING
from polar_ray.engine.engine import Engine
from polar_ray.errors import DeviceLost, ScoringError
from polar_ray.models.adapter import Adapter
from polar_ray.models.checkpoint import model_hashes, resolve, resolve_adapter
from polar_ray.models.loaded import LoadedModel
from polar_ray.recipe.scorers import References, RewardModel
from polar_ray.scorers.base import CandidateScore, Scores, error_text
from polar_ray.scorers.declared import declared
from polar_ray.scorers.encoded import candidate_counts, id_lists
from polar_ray.scorers.reward_encoder import RewardModelEncoder
from polar_ray.scorers.self_check import check_scorer
from polar_ray.scorers.sight import Sight, seen
from polar_ray.terminal import printable

logger = logging.getLogger(__name__)


class RewardModelScorer(ABC):
    """A scorer that reads a reward off the last token of each encoded sequence.

    A subclass names its settings and its encoder, loads its model, and gives a pair whose order is known.

    Attributes:
        config: The settings.
        encoder: Turns groups into ids; used by ``score`` and by the self-check.
        engine: Runs the model.
    """

    settings: ClassVar[type[RewardModel]]
    """The recipe's class for this kind of scorer."""
    encoder_class: ClassVar[type[RewardModelEncoder]]
    scoring_code: ClassVar[str]
    """Version of the code that turns groups into scores: another one makes another scorer of the same checkpoint.

    What does not change it: rounding, within the tolerances of the self-check, so that a run in half precision may be
    finished by a later version whose last bits differ; and a status in place of a reward that should not have been
    given, as ``unsupported`` came for messages with tool calls. Old runs resume all the same, and then hold both.
    """
    extras: tuple[str, ...] = ()

    def __init__(self, config: Any, encoder: RewardModelEncoder, engine: Engine) -> None:
        self.config = config
        self.encoder = encoder
        self.engine = engine

    @classmethod
    @abstractmethod
    def load_model(cls, config: Any, folder: Path, adapter: Adapter | None) -> LoadedModel:
        """Loads the checkpoint in a folder, in the dtype of the settings, with an adapter merged into it.

        Raises:
            CheckpointError: The files are not what this scorer needs.
        """

    @abstractmethod
    def known_order(self) -> Group:
        """Returns a group of two candidates of which the first must beat the second."""

    @classmethod
    def from_config(cls, config: Any, ranks: int = 1) -> Self:
        """Loads tokenizer and weights and runs the self-check.

        Args:
            config: The settings.
            ranks: Devices over which the weights are spread, for a model that does not fit into one.

        Raises:
            CheckpointError: The model's files cannot be found, or are not what this scorer needs.
            TokenizerError: The tokenizer lacks what the model needs.
            SelfCheckError: The scorer came out wrong on its own examples.
        """
        folder = resolve(config.model, config.revision)
        encoder = cls.encoder_class(config, folder)
        adapter = _adapter(config)
        model = cls.load_model(config, folder, adapter)
        # Its matrices are in the model now.
        del adapter
        engine = Engine(model, device=config.device, dtype=config.dtype, token_budget=config.token_budget, ranks=ranks)
        scorer = cls(config, encoder, engine)
        check_scorer(scorer)
        return scorer

    @classmethod
    def from_pretrained(cls, model: str | Path, *, ranks: int = 1, **settings: Any) -> Self:
        """Loads a local folder or a Hugging Face id; ``settings`` are those of a recipe, such as ``dtype``.

        ``ranks`` is the number of devices over which the weights are spread.

        Example:
            >>> scorer = PolarScorer.from_pretrained("/models/POLAR-7B", dtype="bfloat16")
            >>> scorer.score([group])[0][0].reward
        """
        return cls.from_config(cls.settings(model=str(model), **settings), ranks)

    @classmethod
    def fingerprint(cls, config: Any) -> dict[str, str]:
        """Returns all that can change a score, by name: settings, scoring code, hashes of the model's files.

        Raises:
            CheckpointError: The model's files cannot be found.
        """
        hashes = model_hashes(config.model, config.revision, config.adapter, config.adapter_revision)
        return (
            {"kind": config.kind, "scoring_code": cls.scoring_code}
            | declared(config)
            | {f"file:{name}": digest for name, digest in hashes.items()}
        )

    def score(self, groups: list[Group]) -> list[list[CandidateScore]]:
        """Scores groups in Python: one list per group, aligned with its candidates."""
        table = seen(groups_to_table(groups), self.sight)
        scores = iter(_candidate_scores(table.whole(self.score_table(table.groups, self.encoder.encode(table.groups)))))
        return [[next(scores) for _ in group.candidates] for group in groups]

    def score_table(self, groups: pa.Table, encoded: pa.Table | None) -> Scores:
        """Scores a table with ``GROUP_SCHEMA``; ``encoded`` is what this scorer's encoder made of it.

        All sequences of the table go to the engine at once. If that raises, the groups are scored one by one, and
        those that raise again get the status ``error``.

        Raises:
            ScoringError: Every group raised. The cause is the first group's.
            DeviceLost: Nothing more can be scored in this process.
        """
        return self._score_table(groups, self.encoder.encode(groups) if encoded is None else encoded, self.engine.score)

    def rescore_table(self, groups: pa.Table, encoded: pa.Table | None) -> Scores:
        """Scores a table again, as ``score_table`` does but by one plain forward for each sequence.

        Raises:
            ScoringError: As ``score_table``.
        """
        table = self.encoder.encode(groups) if encoded is None else encoded
        return self._score_table(groups, table, self.engine.score_alone)

    @property
    def sight(self) -> Sight:
        """What it sees of messages beside their texts."""
        return self.encoder.sight

    @property
    def tolerance(self) -> float:
        """How far the two may always be apart, relative to ``max(1, |reward|)``; see ``allowed_rounding``."""
        return USUAL_ROUNDING[self.engine.dtype]

    def _score_table(self, groups: pa.Table, table: pa.Table, score: Callable[[list[Any]], np.ndarray]) -> Scores:
        ids = id_lists(table)
        group = table.column("group").to_numpy()
        rows = np.flatnonzero([row is not None for row in ids])
        sequences = [ids[row] for row in rows]
        reward, failures = _score_isolated(lambda some: score(some)[:, 0], sequences, group[rows])
        row_reward = np.full(len(ids), np.nan, np.float32)
        row_reward[rows] = reward
        lengths = np.array([0 if row is None else len(row) for row in ids], np.int64)
        status, error = _row_statuses(table, row_reward, rows, failures)
        return _per_candidate(groups, table, row_reward, status, error, lengths, self._references())

    def _references(self) -> References:
        """How the rewards of one candidate against several references become one."""
        return "first"


def _adapter(config: RewardModel) -> Adapter | None:
    """Reads the adapter of the settings; logs where it was trained on a model of another name."""
    if config.adapter is None:
        return None
    adapter = Adapter.read(resolve_adapter(config.adapter, config.adapter_revision))
    if difference := adapter.config.differs_from(config.model):
        logger.warning("%s", printable(difference[0].upper() + difference[1:]))
    return adapter


def _score_isolated(
    score: Callable[[list[Any]], np.ndarray], sequences: list[Any], group: np.ndarray
) -> tuple[np.ndarray, dict[int, str]]:
    """Scores all sequences, group by group where scoring them at once raises.

    Returns:
        The rewards, NaN where scoring raised, and the error's text by group.
    """
    if not sequences:
        return np.empty(0, np.float32), {}
    try:
        return score(sequences), {}
    except DeviceLost:
        # No group would fare better.
        raise
    except Exception as first:
        # Whatever one group's ids make the model raise must not cost the others their scores.
        whole = first
    reward = np.full(len(sequences), np.nan, np.float32)
    failures: dict[int, str] = {}
    for number in np.unique(group).tolist():
        members = np.flatnonzero(group == number)
        try:
            reward[members] = score([sequences[member] for member in members])
        except DeviceLost:
            raise
        except Exception as error:  # As above.
            failures[number] = error_text(error)
    if len(failures) == len(np.unique(group)):
        raise ScoringError(
            f"Scoring failed for every one of {len(failures)} groups; the first: {next(iter(failures.values()))}"
        ) from whole
    return reward, failures


def _row_statuses(
    table: pa.Table, reward: np.ndarray, rows: np.ndarray, failures: dict[int, str]
) -> tuple[list[str], list[str | None]]:
    """Returns the status and the error of each encoded row, now that its reward is known."""
    status: list[str] = table.column("status").to_pylist()
    error: list[str | None] = table.column("error").to_pylist()
    group = table.column("group").to_numpy()
    for row in rows.tolist():
        if (number := int(group[row])) in failures:
            status[row], error[row] = Status.ERROR.value, failures[number]
        elif not np.isfinite(reward[row]):
            status[row] = Status.NON_FINITE.value
    return status, error


def _per_candidate(
    groups: pa.Table,
    table: pa.Table,
    row_reward: np.ndarray,
    row_status: list[str],
    row_error: list[str | None],
    lengths: np.ndarray,
    references: References,
) -> Scores:
    """Turns rows (a candidate against a reference) into candidates.

    A candidate has a reward if each of its rows has one: a maximum over the references that happened to work would
    not compare with its neighbours'.
    """
    first_of_group = np.concatenate([[0], np.cumsum(candidate_counts(groups))])
    flat = first_of_group[table.column("group").to_numpy()] + table.column("candidate").to_numpy()
    total = int(first_of_group[-1])
    if total == 0:
        return Scores.of([])
    # The rows of a candidate stand next to each other, in the order of its references.
    starts = np.searchsorted(flat, np.arange(total))
    counts = np.diff(np.append(starts, len(flat)))
    assert (counts > 0).all(), "an encoder gives every candidate at least one row"
    if references == "mean":
        reward = np.add.reduceat(row_reward.astype(np.float64), starts) / counts
    elif references == "max":
        reward = np.maximum.reduceat(row_reward, starts)
    else:
        reward = row_reward[starts]
    # The status of the worst row: a missing reward before a truncated one before an ordinary one.
    severity = np.array([0 if status == Status.OK else 1 if status == Status.TRUNCATED else 2 for status in row_status])
    spans = zip(starts.tolist(), counts.tolist(), strict=True)
    worst = [start + int(np.argmax(severity[start : start + count])) for start, count in spans]
    missing = severity[worst] == 2
    return Scores(
        reward=pa.array(reward.astype(np.float32), pa.float32(), mask=missing),
        status=pa.array([row_status[row] for row in worst], pa.string()),
        tokens=pa.array(np.add.reduceat(lengths, starts).astype(np.int32), pa.int32()),
        error=pa.array([row_error[row] for row in worst], pa.string()),
    )


def _candidate_scores(scores: Scores) -> list[CandidateScore]:
    extras = {name: column.to_pylist() for name, column in scores.extras.items()}
    rows = zip(
        scores.reward.to_pylist(),
        scores.status.to_pylist(),
        scores.tokens.to_pylist(),
        scores.error.to_pylist(),
        strict=True,
    )
    return [
        CandidateScore(reward, Status(status), tokens, error, {name: column[row] for name, column in extras.items()})
        for row, (reward, status, tokens, error) in enumerate(rows)
    ]

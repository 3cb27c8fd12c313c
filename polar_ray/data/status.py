"""The status of one candidate's score.

A reward is there exactly when the status is ``ok`` or ``truncated``. Every other status goes with a null
reward: a failure is never 0, -1 or NaN.
"""

from enum import Enum


class Status(str, Enum):
    """Why a candidate has the reward it has, or has none."""

    OK = "ok"
    """Scored."""
    TRUNCATED = "truncated"
    """Scored, but some of the prompt, reference or candidate was cut to fit the model."""
    NO_REFERENCE = "no_reference"
    """The scorer compares with a reference and the group has none."""
    TOO_LONG = "too_long"
    """The text does not fit the model and the scorer's rule is not to cut it."""
    UNSUPPORTED = "unsupported"
    """The messages carry what the scorer cannot show its model, such as tool calls; the ``error`` column says what."""
    NON_FINITE = "non_finite"
    """The model gave NaN or infinity."""
    TIMEOUT = "timeout"
    """Scoring took longer than the scorer allows."""
    ERROR = "error"
    """Scoring raised; the ``error`` column says what."""
    CRASHED = "crashed"
    """Scoring this group killed its process again and again, so it was set aside."""

    @property
    def has_reward(self) -> bool:
        """Whether a reward goes with this status."""
        return self in (Status.OK, Status.TRUNCATED)

    @property
    def is_error(self) -> bool:
        """Whether scoring itself went wrong, which is what ``limits.max_errors`` counts."""
        return self in (Status.ERROR, Status.CRASHED)

    @property
    def has_failed(self) -> bool:
        """Whether another attempt with the same settings may end otherwise, so that a retry makes one."""
        return self.is_error or self in (Status.TIMEOUT, Status.NON_FINITE)

    @property
    def is_of_the_settings(self) -> bool:
        """Whether it comes out the same again unless the scorer's settings change.

        ``no_reference`` depends on the input alone: a group that got a reference is another group.
        """
        return self in (Status.TOO_LONG, Status.TRUNCATED, Status.UNSUPPORTED)

    @property
    def was_tried(self) -> bool:
        """Whether the scorer could try at all: the group has what it needs, and the scorer can show it its model."""
        return self not in (Status.NO_REFERENCE, Status.TOO_LONG, Status.UNSUPPORTED)

    @property
    def may_be_the_device(self) -> bool:
        """Whether a device that has failed gives this status, so that a new process may fare better."""
        return self in (Status.ERROR, Status.NON_FINITE)


FAILED = frozenset(status.value for status in Status if status.has_failed)
OF_THE_SETTINGS = frozenset(status.value for status in Status if status.is_of_the_settings)

"""Where the results go, what the run may use, and when it gives up."""

import os
from typing import Any

from pydantic import Field, model_validator

from polar_ray.recipe.base import Part
from polar_ray.recipe.paths import Path

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Is set in the entry point of a job that ``ray job submit`` started."""

STORAGE_WAIT_S = 300.0
"""Seconds in which a storage that is away may come back, where no recipe says otherwise."""


class Output(Part):
    """The output folder; ``storage_options`` as for the input."""

    path: Path
    storage_options: dict[str, Any] = Field(default={}, repr=False)

    @model_validator(mode="after")
    def _stays(self) -> "Output":
        if goes_with_the_job(self.path):
            raise ValueError(
                f"{self.path} is a relative path, and the working directory of a submitted job is a temporary folder "
                "of Ray, which goes with the job: give an absolute path on a shared file system, or a URL"
            )
        return self


def goes_with_the_job(path: str) -> bool:
    """Whether a path lies in the temporary folder in which Ray runs a submitted job."""
    relative = "://" not in path and not os.path.isabs(os.path.expanduser(path))
    return relative and SUBMITTED in os.environ


class Actors(Part):
    """Size of a pool of scoring actors. The pool starts with what the cluster has room for."""

    min: int = Field(default=1, ge=1)
    max: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> "Actors":
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is below min ({self.min})")
        return self


class Compute(Part):
    """What the run may use of the cluster.

    Attributes:
        address: A Ray cluster's address; None takes ``RAY_ADDRESS``, or starts Ray inside this process.
        actors: Scoring actors, each with its own copy of the model.
        gpus_per_actor: GPUs of one actor; a fraction lets actors share a GPU, and 2, 4 or 8 spread the weights of a
            model that does not fit into one. None takes one for a scorer with a model unless that says ``device: cpu``,
            or Ray runs inside this process and this machine has no GPU; ``plan`` says which.
        cpus_per_actor: CPUs of one actor: the threads that its model may use.
        accelerator_type: Ray's name of the GPU, such as ``H100``, in a mixed cluster.
        splits_in_flight: Splits that wait at each actor while it scores another.
    """

    address: str | None = None
    actors: Actors = Actors()
    gpus_per_actor: float | None = Field(default=None, ge=0)
    cpus_per_actor: float = Field(default=1, gt=0)
    accelerator_type: str | None = None
    splits_in_flight: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _whole_gpus(self) -> "Compute":
        if self.gpus_per_actor is not None and self.gpus_per_actor > 1 and self.gpus_per_actor % 1:
            raise ValueError(f"gpus_per_actor is {self.gpus_per_actor:g}, but beyond 1 it must be a whole number")
        return self


class StorageLimits(Part):
    """How long a storage that is away is waited for.

    Attributes:
        storage_wait_s: Seconds in which a storage that is away, full or read-only may come back, each time; 0 does not
            wait. What is wrong for good (no such file, no access) is not waited for.
    """

    storage_wait_s: float = Field(default=STORAGE_WAIT_S, ge=0)


class Limits(StorageLimits):
    """When a run gives up.

    Attributes:
        storage_wait_s: As above.
        max_dead_letters: A share of the rows read (below 1) or a number of rows; more stop the run, early.
        max_errors: A share of the candidates (below 1) or a number of them that may have the status ``error`` or
            ``crashed``, for each scorer. More stop the run, a share as soon as there are a hundred; a finished run with
            more, which a small one can be, ends its command with exit code 1.
        allow_empty: Whether an input without a single row makes a finished run with an empty score table; it is an
            error by default.
        max_unopened_files: Files of the input that may be gone or forbidden when they are to be read. Each then is a
            dead letter, ``unopened``, until a later ``run`` or ``retry`` can read it; more stop the run.
        max_attempts: Times that a group may kill its process before it is set aside as ``crashed``.
        no_progress_s: Seconds without any split moving on after which the run ends with ``RunStalled``.
        wait_for_nodes_s: Seconds that an autoscaler gets to bring nodes where actors do not fit. None waits 900 if it
            says within 20 that it is bringing some, as those of KubeRay and of Ray's cluster launcher do, and not at
            all where there is none.
        node_loss_s: Seconds without a commit, after a node was lost, in which Ray may recover by itself (more where
            start-up or a split takes longer); then what is left is started anew on the nodes that are there.
    """

    max_dead_letters: float = Field(default=0.5, ge=0)
    max_errors: float = Field(default=0.05, ge=0)
    allow_empty: bool = False
    max_unopened_files: int = Field(default=0, ge=0)
    max_attempts: int = Field(default=2, ge=1)
    no_progress_s: float = Field(default=1800, gt=0)
    wait_for_nodes_s: float | None = Field(default=None, ge=0)
    node_loss_s: float = Field(default=45, gt=0)

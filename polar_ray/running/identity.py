"""What a run is: the things that must not change between its start and its resumption."""

import platform
from importlib import metadata
from typing import Any

import msgspec
from pydantic import ValidationError

from polar_ray import __version__
from polar_ray.data.lines import BLANKS_COUNT, READING
from polar_ray.data.listing import InputFile
from polar_ray.data.records import DAMAGE, differences
from polar_ray.errors import NotARun, RecipeChanged
from polar_ray.recipe.input import Input
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.folder import RunFolder
from polar_ray.scorers.fingerprint import completed

WITHOUT_EFFECT = {"path", "storage_options"}
"""Settings of the input that do not decide what is read: the files themselves are recorded."""


class Identity(msgspec.Struct, frozen=True):
    """What decides the score table.

    Attributes:
        input: The recipe's input settings that decide groups and splits.
        files: Each input file's size, and its etag or else its modification time.
        fingerprints: By scorer, all that can change a score: settings, scoring code, file hashes.
        reading: The rule by which lines become splits, as of ``Lines``. A run keeps to the one that it was begun with.
        limits_errors: Whether it was begun by a version that knows ``limits.max_errors``. Those before finished a run
            whatever its errors were.
    """

    input: dict[str, Any]
    files: dict[str, dict[str, Any]]
    fingerprints: dict[str, dict[str, str]]
    # Absent in the records of the versions that knew no other.
    reading: int = BLANKS_COUNT
    limits_errors: bool = False

    @staticmethod
    def of(
        recipe: Recipe, files: list[InputFile], fingerprints: dict[str, dict[str, str]], reading: int = READING
    ) -> "Identity":
        """Builds the identity of a run about to start."""
        return Identity(
            input=recipe.input.model_dump(mode="json", exclude=WITHOUT_EFFECT),
            files={file.path: describe(file) for file in files},
            fingerprints=fingerprints,
            reading=reading,
            limits_errors=True,
        )

    def completed(self, now: "Identity") -> "Identity":
        """Returns the record of an earlier version as this version writes it, to be compared with what a run is now.

        A setting that the record does not hold is one that its version did not know yet, so it was at its default.
        An earlier rule is no difference, since the run goes on by it.
        """
        return Identity(
            input=_with_defaults(self.input),
            files=self.files,
            fingerprints={
                name: completed(fingerprint, now.fingerprints.get(name, {}))
                for name, fingerprint in self.fingerprints.items()
            },
            reading=max(self.reading, now.reading),
            limits_errors=self.limits_errors or now.limits_errors,
        )


def describe(file: InputFile) -> dict[str, Any]:
    """Returns what identifies the content of an input file: its size, and its etag or modification time."""
    version = {"etag": file.etag} if file.etag else {"mtime": str(file.mtime)}
    return {"size": file.size, **version}


def read_identity(folder: RunFolder) -> Identity | None:
    """Returns the record of what the run in a folder is, or None if no run is there.

    Raises:
        NotARun: There is a file of the record's name that is none.
    """
    try:
        data = folder.storage.read_bytes(folder.identity)
    except FileNotFoundError:
        return None
    try:
        identity = msgspec.json.decode(data, type=Identity)
        for fingerprint in identity.fingerprints.values():
            if "target" in fingerprint:
                msgspec.json.decode(fingerprint.get("settings", "{}"), type=dict[str, Any])
    except DAMAGE as error:
        raise NotARun(
            f"{folder.identity} is not the record of a run of polar_ray ({error}), so nothing is written or deleted "
            "there; restore it from a copy, or give another output.path"
        ) from error
    return identity


def check_same(folder: RunFolder, before: Identity, now: Identity) -> None:
    """Makes sure that the run that goes on in a folder is the one that was begun there.

    Raises:
        RecipeChanged: It has another recipe, input or model; the message says where they differ.
    """
    found = differences(msgspec.to_builtins(before.completed(now)), msgspec.to_builtins(now))
    if found:
        raise RecipeChanged(
            f"{folder.path} holds a run that differs from this one: {found}; "
            "use --fresh to start over, or give another output.path"
        )


def versions() -> dict[str, str]:
    """Returns the versions of what computes a run."""
    return {
        "polar_ray": __version__,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in ("ray", "pyarrow", "torch", "transformers")},
    }


def _with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the input settings of a record with those that it does not hold at their defaults."""
    try:
        # A record has no path, which says nothing of what a run is, and the model wants one.
        complete = Input.model_validate({**settings, "path": "recorded"})
    except ValidationError:
        # A later version's settings: they differ from those of today, and are named as they are.
        return settings
    return {**settings, **complete.model_dump(mode="json", exclude=WITHOUT_EFFECT)}

"""One writer: of several runs, or derivations, that would write into one folder, one does and the others say so."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from polar_ray.data.claim import Busy, Purpose
from polar_ray.data.lease import Lease
from polar_ray.data.storage import FileInfo, Storage
from polar_ray.errors import OutputBusy

FOLDER = "lease"
LEASE_S = 30.0
"""Seconds after which a writer that no longer says that it works counts as dead, where nobody can tell by its process.

As long as nobody takes over, one that was cut off from its storage for longer just goes on.
"""


def others(storage: Storage, records: str) -> list[FileInfo]:
    """Returns the files in an output folder without those of its lease."""
    leases = storage.join(records, FOLDER, "")
    return [info for info in storage.list() if not info.path.startswith(leases)]


@contextmanager
def one_writer(storage: Storage, records: str, work: Purpose, lease_s: float = LEASE_S) -> Iterator[Lease]:
    """Keeps others out of an output folder while the block runs; in the end nothing of the lease is left.

    Args:
        storage: The output folder.
        records: Its folder for records, in which the lease lies.
        work: What writes there.
        lease_s: Seconds until the lease expires unless it is renewed.

    Raises:
        OutputBusy: Somebody else writes there.
        StorageDenied: Nobody could write there.
    """
    storage.check_writable()
    leases = Storage.of(storage.join(records, FOLDER), storage.options, storage.wait_s)
    # Where nothing comes of it, nothing is left: not even the folders.
    made = [] if storage.exists() else [storage.url]
    try:
        # Leases are deleted in the end, but their numbers must not begin anew: a helper of a writer that is long gone
        # would take that of the next one for its own.
        lease = Lease.take(leases, lease_s, work, above=int(time.time() * 100))
    except Busy as busy:
        raise OutputBusy(
            f"another {work.name} has been writing into {storage.url} since {busy.record.since} "
            f"({busy.record.who}); wait for its end, or give another output.path. Should it have been killed on "
            f"another machine, the same command works {lease_s:g} s after that"
        ) from None
    try:
        with lease:
            yield lease
    finally:
        if storage.is_local:
            for folder in (leases.url, storage.join(records), *made):
                with suppress(OSError):
                    os.rmdir(folder)

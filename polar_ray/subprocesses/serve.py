"""What runs in a ``LimitedProcess``: requests come in, answers go out, each within the limits of the command line.

Both ways a line says how many bytes follow.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress


def serve(answer: Callable[[bytes], bytes]) -> None:
    """Answers requests until standard input ends.

    An answer that takes more processor time than the first argument says (seconds) ends the process by SIGPROF, which
    no code in it can hold up or swallow; the second argument says how many bytes of addresses the process may have.
    """
    # A host that ignores or blocks the signal hands that down.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])
    seconds, most_bytes = float(sys.argv[1]), int(sys.argv[2])
    # Some systems, macOS among them, do not limit addresses.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    # What prints to standard output, as some libraries do, must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    answers.write(b"ready\n")
    answers.flush()
    requests = sys.stdin.buffer
    for size in requests:
        request = requests.read(int(size))
        signal.setitimer(signal.ITIMER_PROF, seconds)
        answered = answer(request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(b"%d\n" % len(answered))
        answers.write(answered)
        answers.flush()

"""Python processes of our own beside this one: what is installed comes before what lies in a working folder."""

import json
import os
import sys

_START = (
    # Before 3.11 there is no -P: the first path of `python -c` is the working folder.
    "import sys; sys.path[:] = [path for path in sys.path if path]; "
    "given = __import__('json').loads(sys.argv.pop(1)); "
    "sys.path += [path for path in given if path not in sys.path]; "
    "__import__({module!r}, fromlist=['main']).main()"
)


def python(module: str, *arguments: str) -> list[str]:
    """Returns the command that runs ``main()`` of a module in a process of its own, with ``environment``.

    The process finds what this one finds, but what is installed comes first: a ``math_verify.py`` in the working
    folder, or beside the user's script, shadows nothing.
    """
    # An empty path is the working folder of this process, which the other's need not be.
    paths = [path for path in sys.path if path and os.path.abspath(path) != os.getcwd()]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return [sys.executable, "-c", _START.format(module=module), json.dumps([*paths, root]), *arguments]


def environment() -> dict[str, str]:
    """Returns the environment of such a process: without paths that would come before what is installed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"PYTHONSAFEPATH": "1"}

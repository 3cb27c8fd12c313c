"""Globs over the paths of any storage: ``*``, ``?``, ``[...]`` inside a name, ``**`` across folders."""

import re
from functools import cache

_MAGIC = re.compile(r"[*?\[]")


def is_glob(path: str) -> bool:
    """Whether a path has any of the characters ``*``, ``?`` and ``[``."""
    return _MAGIC.search(path) is not None


def fixed_folder(pattern: str) -> str:
    """Returns the folders before the first name with a wildcard, so that no more than that is listed."""
    names = pattern.split("/")
    fixed = names[: next(i for i, name in enumerate(names) if is_glob(name))]
    return "/".join(fixed) or ("/" if pattern.startswith("/") else "")


@cache
def compile_glob(pattern: str) -> re.Pattern[str]:
    """Returns the pattern as a regular expression to be used with ``fullmatch``."""
    out: list[str] = []
    i = 0
    while i < len(pattern):
        if pattern.startswith("**/", i):
            out.append("(?:[^/]+/)*")
            i += 3
        elif pattern.startswith("**", i):
            out.append(".*")
            i += 2
        elif pattern[i] == "*":
            out.append("[^/]*")
            i += 1
        elif pattern[i] == "?":
            out.append("[^/]")
            i += 1
        elif pattern[i] == "[" and (end := pattern.find("]", i + 2)) != -1:
            body = pattern[i + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            out.append(f"[^/{body[1:]}]" if body[0] in "!^" else f"(?!/)[{body}]")
            i = end + 1
        else:
            out.append(re.escape(pattern[i]))
            i += 1
    return re.compile("".join(out), re.DOTALL)

"""Paths as people write them: what is a local path, what is a URL, and what is a URL with a slip in it."""

import re
from typing import Annotated

from pydantic import AfterValidator

SCHEMES = ("s3", "s3a", "s3n", "gs", "gcs", "az", "abfs", "abfss", "hf", "file")
"""Schemes that are known to be meant as such even where a path is not written as a URL."""

_LIKE_A_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)(?P<colon>:?)(?P<slashes>/*)(?P<rest>.*)", re.DOTALL)


def mistake_in(path: str) -> str | None:
    """Returns what is wrong with a path, or None.

    A path that is almost a URL would otherwise be a local folder of that name, and an empty one the working folder.
    """
    if not path.strip():
        return "the path is empty (is it a variable that is not set?); for the working folder write ."
    try:
        path.encode()
    except UnicodeEncodeError:
        return f"{path!a} is not UTF-8; rename the file or folder"
    if any(ord(character) < 32 for character in path):
        return f"{path!r} holds a control character, which no path needs; correct it"
    if path != path.strip():
        return f"{path!r} begins or ends with white space; correct it"
    match = _LIKE_A_URL.match(path)
    if match is None:
        return None
    scheme, rest = match["scheme"], match["rest"]
    is_url = match["colon"] and match["slashes"].startswith("//")
    if scheme.lower() in ("http", "https") and match["colon"]:
        return (
            f"{path} is a web address, which has no files to list and takes none; download it and give the local path, "
            "or use hf://, s3://, gs:// or az://"
        )
    if scheme.lower() not in SCHEMES:
        return None
    slashes = "///" if scheme.lower() == "file" else "//"
    meant = f"{scheme.lower()}:{slashes}{rest}"
    if is_url:
        if scheme != scheme.lower():
            return f"{path}: schemes are written in lower case; write {meant}"
        if scheme != "file" and (match["slashes"] != "//" or not rest):
            return f"{path} names no bucket; write {scheme}://bucket/folder"
        return None
    if match["colon"] or match["slashes"].startswith("//"):
        return f"{path} is almost a URL: write {meant}, or ./{path} for a local path of that name"
    return None


def checked(path: str) -> str:
    """Returns a path of a recipe as it is.

    Raises:
        ValueError: There is a mistake in it.
    """
    if (mistake := mistake_in(path)) is not None:
        raise ValueError(mistake)
    return path


Path = Annotated[str, AfterValidator(checked)]
"""A path in a recipe."""

"""The other end of a limited process in tests: it answers with what it was asked, and ``loop`` without end."""

from polar_ray.subprocesses.serve import serve


def _answer(request: bytes) -> bytes:
    while request == b"loop":
        pass
    return request


def main() -> None:
    serve(_answer)

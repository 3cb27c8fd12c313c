"""Where the engine's time goes: matrix products, attention, element-wise work, and what is left."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from polar_ray.engine.engine import Engine
from polar_ray.engine.kernels import Kernels
from polar_ray.engine.layout import Spans
from polar_ray.engine.linear import PackedLinear


@dataclass
class Part:
    """One kind of work: how long it took, and its floating-point operations where it is matrix products."""

    seconds: float = 0.0
    operations: float = 0.0


def profile(engine: Engine, sequences: Sequence[np.ndarray], now: Callable[[], float]) -> dict[str, Part]:
    """Scores sequences once and returns what each part took; ``other`` is the rest of ``all``.

    It shows the path on the CPU with packed weights and kernels; without them all is ``other``.
    """
    parts = {name: Part() for name in ("products", "attention", "norms", "rotation", "gates")}
    with (
        _timed(PackedLinear, "_block", parts["products"], now, _product),
        _timed(Kernels, "attention", parts["attention"], now, _attention),
        _timed(Kernels, "rms_norm", parts["norms"], now),
        _timed(Kernels, "rotate", parts["rotation"], now),
        _timed(Kernels, "gate", parts["gates"], now),
    ):
        start = now()
        engine.score(sequences)
        seconds = now() - start
    parts["other"] = Part(seconds - sum(part.seconds for part in parts.values()))
    parts["all"] = Part(seconds, sum(part.operations for part in parts.values()))
    return parts


def print_profile(parts: dict[str, Part], peak: float) -> None:
    """Prints a table of what ``profile`` returned."""
    print(f"{'':12}{'s':>8}{'of time':>9}{'of peak':>9}")
    for name, part in parts.items():
        share = f"{part.operations / part.seconds / peak:>9.1%}" if part.operations else ""
        print(f"{name:12}{part.seconds:>8.2f}{part.seconds / parts['all'].seconds:>9.1%}{share}")


def _product(layer: PackedLinear, x: Any) -> float:
    return 2.0 * len(x) * layer.in_features * layer.out_features


def _attention(kernels: Kernels, query: Any, key: Any, value: Any, pieces: Any, spans: Spans, **_: Any) -> float:
    """Counts what causality leaves of the products of queries with keys and of weights with values."""
    length, position = spans.length.astype(np.float64), spans.position.astype(np.float64)
    pairs = (length * position + length * (length + 1) / 2).sum()
    return float(4 * query.shape[1] * query.shape[2] * pairs)


@contextmanager
def _timed(
    owner: type,
    name: str,
    part: Part,
    now: Callable[[], float],
    operations: Callable[..., float] = lambda *_, **__: 0.0,
) -> Iterator[None]:
    """Adds what a method takes to a part."""
    method = getattr(owner, name)

    def timed(*arguments: Any, **named: Any) -> Any:
        start = now()
        result = method(*arguments, **named)
        part.seconds += now() - start
        part.operations += operations(*arguments, **named)
        return result

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, method)

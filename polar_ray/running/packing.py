"""How much larger input is in memory than as stored."""

from polar_ray.data.listing import InputFile

PACKED = {"parquet": 2.5, "gzip": 3.0, "zstd": 3.5}
"""Usual ratios of bytes in memory to bytes as stored, for text."""


def packing(file: InputFile) -> float:
    """Returns the usual ratio of a file's bytes in memory to its size."""
    return PACKED.get(file.format if file.format == "parquet" else file.compression or "", 1.0)

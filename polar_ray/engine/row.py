"""The state of one forward over a packed row: what the layers need to know beyond their hidden states."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from polar_ray.engine.attention import VarlenTables, attend, attend_varlen, varlen_serves
from polar_ray.engine.kernels import Kernels
from polar_ray.engine.layout import Layout
from polar_ray.engine.transfer import to_device


@dataclass
class KeptKeys:
    """Keys and values of runs that later forwards read.

    Attributes:
        by_run: By run and layer: keys and values, ``[tokens, kv_heads, dim]`` each.
    """

    by_run: dict[int, dict[int, tuple[torch.Tensor, torch.Tensor]]] = field(default_factory=dict)

    def forget_before(self, forward: int, last_reader: Mapping[int, int]) -> None:
        """Frees the runs that neither this forward nor a later one reads."""
        self.by_run = {run: layers for run, layers in self.by_run.items() if last_reader[run] >= forward}


@dataclass
class Row:
    """One forward's row, as it goes through the layers.

    Attributes:
        layout: Where everything lies.
        kept: Keys and values of earlier forwards, to which this one adds.
        before: The runs of earlier forwards that this one reads, in the layout's order.
        keep: The runs of this forward that later ones read.
        kernels: For attention on the CPU.
        device: Where the model runs.
    """

    layout: Layout
    kept: KeptKeys
    before: tuple[int, ...]
    keep: tuple[int, ...]
    kernels: Kernels | None
    device: torch.device

    def all_keys(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns a layer's keys and values with those of earlier forwards before them, and keeps what is needed.

        Args:
            layer: The layer's number.
            key: ``[tokens, kv_heads, dim]``, with positions.
            value: ``[tokens, kv_heads, dim]``.
        """
        for run in self.keep:
            rows = self.layout.run_rows[run]
            self.kept.by_run.setdefault(run, {})[layer] = (key[rows].clone(), value[rows].clone())
        if not self.before:
            return key, value
        earlier = [self.kept.by_run[run][layer] for run in self.before]
        return torch.cat([k for k, _ in earlier] + [key]), torch.cat([v for _, v in earlier] + [value])

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scale: float,
        softcap: float | None,
        window: int | None,
        reads_only: bool = False,
    ) -> torch.Tensor:
        """Returns the attention of all tokens, or of the read-outs, over their chains. See ``attend``."""
        if varlen_serves(query, softcap):
            tables = self._read_tables if reads_only else self._token_tables
            return attend_varlen(query, key, value, tables, scale=scale, window=window)
        spans = self.layout.reads if reads_only else self.layout.tokens
        return attend(
            query,
            key,
            value,
            self.layout.pieces,
            spans,
            scale=scale,
            softcap=softcap,
            window=window,
            kernels=self.kernels,
        )

    @cached_property
    def read_rows(self) -> torch.Tensor:
        """int64 ``[read-outs]``, their places in the row."""
        return to_device(self.layout.read_rows, self.device)

    @cached_property
    def _token_tables(self) -> VarlenTables:
        return VarlenTables.of(self.layout.pieces, self.layout.tokens, self.device)

    @cached_property
    def _read_tables(self) -> VarlenTables:
        return VarlenTables.of(self.layout.pieces, self.layout.reads, self.device)

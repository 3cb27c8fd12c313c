"""The state of one forward over a packed row: what the layers need to know beyond their hidden states."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from polar_ray.engine.attention import attend
from polar_ray.engine.flex import FlexTables, attend_flex, flex_serves
from polar_ray.engine.kernels import Kernels
from polar_ray.engine.layout import Layout, Spans
from polar_ray.engine.transfer import to_device
from polar_ray.engine.varlen import KEYS_PER_TOKEN, VarlenCall, attend_varlen, varlen_calls, varlen_serves


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
    _flex: dict[tuple[bool, int | None], FlexTables] = field(default_factory=dict, init=False)

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
            calls = self._read_calls if reads_only else self._token_calls
            return attend_varlen(query, key, value, calls, scale=scale, window=window)
        if flex_serves(query):
            tables = self._flex_tables(reads_only, window)
            return attend_flex(query, key, value, tables, scale=scale, softcap=softcap)
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
    def _token_calls(self) -> tuple[VarlenCall, ...]:
        return self._calls(self.layout.tokens)

    @cached_property
    def _read_calls(self) -> tuple[VarlenCall, ...]:
        return self._calls(self.layout.reads)

    def _calls(self, spans: Spans) -> tuple[VarlenCall, ...]:
        return varlen_calls(self.layout.pieces, spans, self.device, KEYS_PER_TOKEN * len(self.layout.ids))

    def _flex_tables(self, reads_only: bool, window: int | None) -> FlexTables:
        """Layers of one kind share their tables."""
        if (key := (reads_only, window)) not in self._flex:
            spans = self.layout.reads if reads_only else self.layout.tokens
            self._flex[key] = FlexTables.of(self.layout.pieces, spans, self.device, window)
        return self._flex[key]

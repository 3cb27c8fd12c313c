"""A model in bfloat16 with its residual stream in float32: what sums up is not rounded at each addition."""

from typing import Any

import torch

from polar_ray.engine.fused import FusedAttention, FusedMLP, FusedNorm
from polar_ray.engine.kernels import Kernels
from polar_ray.engine.linear import WideLinear, row_blocks
from polar_ray.engine.row import Row


class WideEmbedding(torch.nn.Module):
    """Gives embeddings in float32, in which the residual stream then stays."""

    def __init__(self, native: torch.nn.Module) -> None:
        super().__init__()
        self.native = native

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns float32 ``[..., hidden]``."""
        out: torch.Tensor = self.native(ids).float()
        return out


class WideLayer(torch.nn.Module):
    """A decoder layer in bfloat16 whose residual stream is float32.

    Where its linear layers are wide, nothing else is rounded than what goes into a matrix product, and that once: the
    two branches are summed up in the stream itself. What follows the attention goes through in blocks of rows, which
    stay in cache.
    """

    def __init__(
        self,
        native: Any,
        attention: FusedAttention,
        norms: dict[str, FusedNorm],
        mlp: torch.nn.Module,
        kernels: Kernels,
    ) -> None:
        super().__init__()
        self.native = native
        self.attention = attention
        self.input_layernorm = norms["input_layernorm"]
        # Gemma 2 also norms what the branches give.
        sandwich = "pre_feedforward_layernorm" in norms
        self.middle = norms["pre_feedforward_layernorm" if sandwich else "post_attention_layernorm"]
        self.after_attention = norms["post_attention_layernorm"] if sandwich else None
        self.after_mlp = norms["post_feedforward_layernorm"] if sandwich else None
        self.mlp = mlp
        self.kernels = kernels

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        row: Row,
        keys: tuple[torch.Tensor, torch.Tensor] | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Returns float32 ``[1, tokens, hidden]``, in the memory of ``hidden_states``; see ``FusedAttention``."""
        x = hidden_states[0].contiguous()
        attended = self.attention.attended(self.input_layernorm(x), position_embeddings, row, keys)
        sizes = row_blocks(len(x))
        for part, rows in zip(torch.split(x, sizes), torch.split(attended, sizes), strict=True):
            self._add(part, self.attention.native.o_proj, rows, self.after_attention)
            normed = self.middle(part)
            if isinstance(self.mlp, FusedMLP):
                self._add(part, self.mlp.native.down_proj, self.mlp.gated(normed), self.after_mlp)
            else:
                self._add(part, self.mlp, normed, self.after_mlp)
        return x[None]

    def _add(self, x: torch.Tensor, branch: torch.nn.Module, rows: torch.Tensor, norm: FusedNorm | None) -> None:
        """Adds to the stream, in place, what a branch's last module gives, and its norm where there is one."""
        if not isinstance(branch, WideLinear):
            added = branch(rows)
        elif norm is None:
            branch.add_to(x, rows)
            return
        else:
            added = branch.exact(rows)
        self.kernels.add(x, added if norm is None else norm.exact(added))

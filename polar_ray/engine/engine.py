"""The engine: token ids go in, the head's outputs at each sequence's last token come out."""

import contextlib
import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch

from polar_ray.engine.batches import plan_batches
from polar_ray.engine.device import Device, check_devices, pick_device
from polar_ray.engine.kernels import load_kernels
from polar_ray.engine.layout import lay_out
from polar_ray.engine.linear import pack_linears, times_float32
from polar_ray.engine.memory import attention_budget, free_bytes, give_back_memory, keep_freed_memory
from polar_ray.engine.memory import token_budget as budget_for
from polar_ray.engine.packed import PackedModel
from polar_ray.engine.plain import read_plainly
from polar_ray.engine.plan import SMALLEST_FORWARD, Budget, Plan, plan_forwards
from polar_ray.engine.probe import differs_from_plain
from polar_ray.engine.rank import PlainForward
from polar_ray.engine.ranks import Ranks
from polar_ray.engine.row import KeptKeys, Row
from polar_ray.engine.transfer import Fetched
from polar_ray.errors import ScoringError
from polar_ray.models.dtype import TORCH_DTYPES, DType
from polar_ray.models.loaded import LoadedModel

logger = logging.getLogger(__name__)

Path = Literal["auto", "plain"]

SLOW = 1.25
"""How much slower than float32 half precision may measure before it is said."""


class Engine:
    """Runs a causal model over sequences of any length.

    Sequences that begin alike share that beginning: it is computed once (see ``prefix_tree``). What is computed lies in
    one row per forward without padding, each token attends to its own sequence alone, and of the last layer only the
    read-outs are computed. The head runs in float32.

    A model that does not come out the same that way on a probe at start is run plainly, in padded batches.

    Several threads may call it; they take turns.

    Attributes:
        device: Where the model runs.
        dtype: The backbone's dtype.
        token_budget: Most tokens of one forward. Running out of memory halves it, for good.
        plain_because: Why the model is run plainly, or None.
        fused: Whether parts of the model are replaced by faster ones.
        share: Whether sequences share beginnings.
        ranks: Devices (on the CPU: processes) that the model is spread over.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        device: Device = "auto",
        dtype: DType = "bfloat16",
        token_budget: int | None = None,
        path: Path = "auto",
        share: bool = True,
        ranks: int = 1,
        rank_timeout_s: float = 600.0,
    ) -> None:
        """Moves the model to its device, and finds out how it is run best there.

        Args:
            model: Its modules are taken over, and changed.
            device: ``auto`` takes CUDA where there is one.
            dtype: The backbone's dtype.
            token_budget: Most tokens of one forward; None finds one from the free memory and the model's shapes.
            path: ``plain`` runs the model plainly in any case.
            share: False computes each sequence on its own.
            ranks: Spreads the weights over so many devices, for a model that does not fit into one: this process
                computes on the first, and child processes on the others (see ``ranks``). On the CPU they are
                processes only, which is of use for tests.
            rank_timeout_s: Seconds that a forward over several ranks may take before it counts as hanging.

        Raises:
            RecipeError: ``cuda`` is asked for and there is none, or not enough of it, or the model cannot be split.
            DeviceLost: Another rank could not begin.
        """
        self.device = pick_device(device)
        self.dtype: DType = dtype
        self.vocab_size = model.vocab_size
        self.max_positions = model.max_positions
        self.labels = model.labels
        self.share = share
        self.ranks = ranks
        # The model's parts are exchanged while it runs, and the kernels have one workspace.
        self._turn = threading.Lock()
        self._ranks: Ranks | None = None
        if ranks > 1:
            check_devices(self.device, ranks)
            self._ranks = Ranks(
                *(model.backbone, TORCH_DTYPES[dtype], self.device, ranks),
                fused=path == "auto",
                timeout_s=rank_timeout_s,
            )
            weakref.finalize(self, self._ranks.close)
        self._backbone = _placed(model.backbone, self.device, TORCH_DTYPES[dtype]).eval()
        self._head = _placed(model.head, self.device, torch.float32)
        self._kernels = None
        if self.device.type == "cpu" and path == "auto":
            keep_freed_memory()
            self._warn_of_slow_products()
            self._kernels = load_kernels() if dtype in ("float32", "bfloat16") else None
            pack_linears(self._backbone, None if self._kernels is None else self._kernels.products)
        self._packed = PackedModel(self._backbone, self._kernels)
        self.fused = self._packed.fused
        self._one_by_one = self._packed.depends_on_longest(self.max_positions)
        self.token_budget = token_budget or min(
            budget_for(self._backbone.config, TORCH_DTYPES[dtype], self.device, free)
            for free in (free_bytes(self.device), *(self._ranks.free if self._ranks else ()))
        )
        self.plain_because = self._why_plain(path)
        if self.plain_because is not None and path != "plain":
            logger.warning("%s is run plainly: %s.", type(self._backbone).__name__, self.plain_because)

    def _warn_of_slow_products(self) -> None:
        # Only a warning: a dtype that each machine chose for itself would give each its own scores.
        if self.dtype != "float32" and (times := times_float32(TORCH_DTYPES[self.dtype])) > SLOW:
            logger.warning(
                "Matrix products in %s take %.1f times as long as in float32 on this processor. If there is memory for "
                "it, dtype: float32 is faster, and more exact.",
                self.dtype,
                times,
            )

    def _why_plain(self, path: Path) -> str | None:
        if path == "plain":
            return "it was asked for"
        if self._one_by_one:
            return "its rotary positions depend on the longest sequence of a forward"
        with self._watched():
            return differs_from_plain(
                lambda sequences: self._read(sequences, self.plan(sequences)),
                lambda sequences: self._read_alone(sequences),
                self._backbone,
                vocab_size=self.vocab_size,
                max_positions=self.max_positions,
                dtype=self.dtype,
            )

    def plan(self, sequences: Sequence[np.ndarray]) -> Plan:
        """Returns the forwards that ``score`` would run; printing it shows their sizes."""
        budget = Budget(self.token_budget, attention_budget(self.token_budget))
        return plan_forwards(sequences, budget, share=self.share)

    @torch.inference_mode()
    def score(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the head's outputs at the last token of each sequence.

        The result for one list, in any order, is the same whenever it is scored, down to the last bit on one kind of
        machine, unless memory runs out on the way. NaN and infinity are returned as they are.

        Args:
            sequences: int32 ``[length]`` each, control tokens included.

        Returns:
            float32 ``[N, labels]``.

        Raises:
            TypeError: A sequence is no array of integers.
            ValueError: An id is outside the vocabulary, or a sequence is empty or longer than the model's positions.
            ScoringError: One sequence alone does not fit in memory.
            DeviceLost: The model is spread over several ranks, and one of them ended, hung or failed.
        """
        for position, ids in enumerate(sequences):
            self._check(position, ids)
        run = self._score_plainly if self.plain_because is not None else self._score_packed
        outputs = np.empty((len(sequences), self.labels), np.float32)
        waiting = np.arange(len(sequences))
        while len(waiting):
            # All of them, unless memory runs out.
            with self._turn, self._watched():
                done, result = run([sequences[row] for row in waiting.tolist()])
            outputs[waiting[done]] = result
            waiting = np.delete(waiting, done)
        return outputs

    @torch.inference_mode()
    def score_alone(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """Returns what ``score`` returns, from one plain forward of transformers per sequence: what it is held to."""
        if not len(sequences):
            return np.empty((0, self.labels), np.float32)
        for position, ids in enumerate(sequences):
            self._check(position, ids)
        with self._turn, self._watched():
            return self._outputs(self._read_alone(sequences)).array()

    def close(self) -> None:
        """Ends the other ranks, where there are any. It is done by itself when the engine is no longer used."""
        if self._ranks is not None:
            self._ranks.close()

    def _watched(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._ranks is None else self._ranks.watched()

    def _check(self, position: int, ids: np.ndarray) -> None:
        if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu":
            raise TypeError(
                f"Sequence {position} must be a numpy array of integers, not {type(ids).__name__}: {ids!r:.80}"
            )
        if len(ids) == 0:
            raise ValueError(f"Sequence {position} has no tokens.")
        if len(ids) > self.max_positions:
            raise ValueError(
                f"Sequence {position} has {len(ids)} tokens, but the model can be given {self.max_positions} at most."
            )
        # An id out of range would poison a CUDA context for good, so it is looked for here.
        if ids.min() < 0 or ids.max() >= self.vocab_size:
            raise ValueError(
                f"Sequence {position} has ids from {ids.min()} to {ids.max()}, but the model's vocabulary has "
                f"{self.vocab_size}. The tokenizer does not belong to this model."
            )

    def _score_packed(self, sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rows that were scored before memory ran out, if it did, and their outputs."""
        plan = self.plan(sequences)
        kept = KeptKeys()
        by_run: dict[int, np.ndarray] = {}
        # While the device runs one forward, the next is laid out and given to it, and then the first is waited for.
        ahead: tuple[Row, Fetched] | None = None
        for number, forward in enumerate(plan.forwards):
            longest = max(len(sequences[run.source]) for run in plan.runs[forward.first : forward.stop])
            row = self._row(plan, number, sequences, kept)
            fetched = self._within_memory(partial(self._read_row, row), forward.tokens, longest)
            if ahead is not None:
                by_run.update(zip(ahead[0].layout.read_runs, ahead[1].array(), strict=True))
            ahead = None if fetched is None else (row, fetched)
            if fetched is None:
                break
        if ahead is not None:
            by_run.update(zip(ahead[0].layout.read_runs, ahead[1].array(), strict=True))
        done = np.array([row for row, run in enumerate(plan.last) if run in by_run], np.int64)
        results = [by_run[plan.last[row]] for row in done]
        return done, np.array(results, np.float32).reshape(len(done), self.labels)

    def _score_plainly(self, sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """As ``_score_packed``, in padded batches."""
        lengths = np.fromiter((len(ids) for ids in sequences), np.int64, len(sequences))
        plan = plan_batches(lengths, 1 if self._one_by_one else self.token_budget)
        done: list[int] = []
        results: list[np.ndarray] = [np.empty((0, self.labels), np.float32)]
        for batch in plan.batches:
            rows = [sequences[row] for row in batch.rows]
            result = self._within_memory(partial(self._read_batch, rows), batch.padded_tokens, batch.longest)
            if result is None:
                break
            done += batch.rows
            results.append(result.array())
        return np.array(done, np.int64), np.concatenate(results)

    def _read(self, sequences: Sequence[np.ndarray], plan: Plan) -> torch.Tensor:
        """Returns the hidden states ``[N, hidden]`` that the head reads."""
        kept = KeptKeys()
        by_run: dict[int, torch.Tensor] = {}
        for number in range(len(plan.forwards)):
            row = self._row(plan, number, sequences, kept)
            by_run.update(zip(row.layout.read_runs, self._read_packed(row), strict=True))
        return torch.stack([by_run[run] for run in plan.last])

    def _read_alone(self, sequences: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.cat([self._read_padded([ids]) for ids in sequences])

    def _row(self, plan: Plan, number: int, sequences: Sequence[np.ndarray], kept: KeptKeys) -> Row:
        forward = plan.forwards[number]
        kept.forget_before(number, plan.last_reader)
        keep = tuple(run for run in range(forward.first, forward.stop) if run in plan.last_reader)
        layout = lay_out(plan, forward, sequences)
        return Row(layout, kept, forward.kept, keep, self._kernels, self.device)

    def _read_row(self, row: Row) -> Fetched:
        return self._outputs(self._read_packed(row))

    def _read_batch(self, sequences: Sequence[np.ndarray]) -> Fetched:
        return self._outputs(self._read_padded(sequences))

    def _read_packed(self, row: Row) -> torch.Tensor:
        if self._ranks is not None:
            self._ranks.packed(row)
        return self._packed.read(row)

    def _read_padded(self, sequences: Sequence[np.ndarray]) -> torch.Tensor:
        if self._ranks is not None:
            self._ranks.plain(PlainForward(sequences))
        return read_plainly(self._backbone, sequences, self.device)

    def _outputs(self, hidden: torch.Tensor) -> Fetched:
        return Fetched(self._head(hidden.float()))

    def _within_memory(self, forward: Callable[[], Fetched], tokens: int, longest: int) -> Fetched | None:
        """Returns what a forward returns, or None if it ran out of memory and the budget was lowered.

        Raises:
            ScoringError: The forward cannot be made smaller.
        """
        try:
            return forward()
        except (RuntimeError, MemoryError) as error:
            # The other ranks are in the middle of the same forward, and could not be told to begin it again.
            if not _is_out_of_memory(error) or self._ranks is not None:
                raise
            # A forward can be far below the budget; it must become smaller in any case.
            budget = min(self.token_budget, tokens) // 2
            if budget < SMALLEST_FORWARD or (self.plain_because is not None and tokens <= longest):
                raise ScoringError(
                    f"A single sequence of {longest} tokens does not fit in the memory of {self.device} in "
                    f"{self.dtype}. Use a smaller dtype, a device with more memory, or a lower max_length."
                ) from error
        # Not in the except block, where the traceback would keep the failed forward's tensors alive.
        logger.warning(
            "Out of memory on %s with %d tokens in one forward; the token budget goes from %d to %d. "
            "Set token_budget: %d to start with it.",
            self.device,
            tokens,
            self.token_budget,
            budget,
            budget,
        )
        self.token_budget = budget
        if self._kernels is not None:
            self._kernels.free_workspace()
        give_back_memory(self.device)
        return None


def _placed(module: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """Moves a module to a device and casts its parameters, but not its buffers.

    ``module.to(dtype)`` would round the rotary frequencies too, and with them every position.
    """
    for parameter in module.parameters():
        parameter.data = parameter.data.to(device=device, dtype=dtype)
    return module.to(device)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The CPU allocator has no exception class of its own, and oneDNN tells no more than what it could not create.
    # The last two are of libraries that allocate on CUDA past torch.
    told = (
        *("can't allocate memory", "not enough memory", "could not create a primitive", "could not create a memory"),
        *("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"),
    )
    return any(words in str(error) for words in told)

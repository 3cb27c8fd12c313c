"""The engine: token ids go in, the head's outputs at each sequence's last token come out."""

import logging
from collections.abc import Sequence

import numpy as np
import torch

from polar_ray.engine.device import Device, default_token_budget, pick_device
from polar_ray.engine.plan import MicroBatch, Plan, plan_batches
from polar_ray.errors import ScoringError
from polar_ray.models.dtype import TORCH_DTYPES, DType
from polar_ray.models.loaded import LoadedModel

logger = logging.getLogger(__name__)


class Engine:
    """Runs a causal model over sequences of any length, in micro-batches planned from their lengths alone.

    Sequences are padded on the right and no mask is passed: in a causal model a token never attends to what follows
    it, so neither padding nor neighbours can reach a score. The hidden state is read at ``length - 1``, never
    searched for by a pad id, and the head runs in float32.

    Attributes:
        device: Where the model runs.
        dtype: The backbone's dtype.
        token_budget: Most tokens of one forward, padding included. Running out of memory halves it, for good.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        device: Device = "auto",
        dtype: DType = "bfloat16",
        token_budget: int | None = None,
    ) -> None:
        """Moves the model to its device. See the class for the arguments; ``None`` as budget chooses one.

        Raises:
            ValueError: ``cuda`` is asked for and there is none.
        """
        self.device = pick_device(device)
        self.dtype: DType = dtype
        self.token_budget = token_budget or default_token_budget(self.device)
        self.vocab_size = model.vocab_size
        self.max_positions = model.max_positions
        self.labels = model.labels
        self._backbone = _placed(model.backbone, self.device, TORCH_DTYPES[dtype]).eval()
        self._head = _placed(model.head, self.device, torch.float32)

    def plan(self, sequences: Sequence[np.ndarray]) -> Plan:
        """Returns the forwards that ``score`` would run; printing it shows their sizes."""
        lengths = np.fromiter((len(ids) for ids in sequences), np.int64, len(sequences))
        return plan_batches(lengths, self.token_budget)

    @torch.inference_mode()
    def score(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the head's outputs at the last token of each sequence.

        The result for one list is the same whenever it is scored, down to the last bit on one kind of machine,
        unless memory runs out on the way. NaN and infinity are returned as they are.

        Args:
            sequences: int32 ``[length]`` each, control tokens included.

        Returns:
            float32 ``[N, labels]``.

        Raises:
            ValueError: An id is outside the vocabulary, or a sequence is empty or longer than the model's positions.
            ScoringError: One sequence alone does not fit in memory.
        """
        for position, ids in enumerate(sequences):
            self._check(position, ids)
        outputs = torch.empty(len(sequences), self.labels, dtype=torch.float32, device=self.device)
        waiting = list(self.plan(sequences).batches)
        while waiting:
            batch = waiting[0]
            if batch.padded_tokens > self.token_budget and len(batch.rows) > 1:
                waiting[:1] = _split(batch, sequences, self.token_budget)
                continue
            result = self._try_forward(sequences, batch)
            if result is not None:
                outputs[torch.tensor(batch.rows, device=self.device)] = result
                waiting.pop(0)
        return outputs.cpu().numpy()

    def _check(self, position: int, ids: np.ndarray) -> None:
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

    def _try_forward(self, sequences: Sequence[np.ndarray], batch: MicroBatch) -> torch.Tensor | None:
        """Returns the outputs of a batch, or None if it ran out of memory and the budget was lowered."""
        try:
            return self._forward(sequences, batch)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if len(batch.rows) == 1:
                raise ScoringError(
                    f"A single sequence of {batch.longest} tokens does not fit in the memory of {self.device} in "
                    f"{self.dtype}. Use a smaller dtype, a device with more memory, or a lower max_length."
                ) from error
        # Not in the except block, where the traceback would keep the failed forward's tensors alive.
        self._halve_budget(batch)
        return None

    def _forward(self, sequences: Sequence[np.ndarray], batch: MicroBatch) -> torch.Tensor:
        # [sequences, longest]. Any id pads: nothing that is read can see it.
        ids = np.zeros((len(batch.rows), batch.longest), np.int64)
        for place, row in enumerate(batch.rows):
            ids[place, : len(sequences[row])] = sequences[row]
        last = torch.tensor([len(sequences[row]) - 1 for row in batch.rows], device=self.device)
        # [sequences, longest, hidden], then the last token of each: [sequences, hidden].
        hidden = self._backbone(
            input_ids=torch.from_numpy(ids).to(self.device), attention_mask=None, use_cache=False
        ).last_hidden_state
        hidden = hidden[torch.arange(len(batch.rows), device=self.device), last]
        output: torch.Tensor = self._head(hidden.float())
        return output

    def _halve_budget(self, batch: MicroBatch) -> None:
        # A batch can be far below the budget; it must become smaller in any case.
        budget = min(self.token_budget, batch.padded_tokens) // 2
        logger.warning(
            "Out of memory on %s with %d padded tokens in one forward; the token budget goes from %d to %d. "
            "Set token_budget: %d to start with it.",
            self.device,
            batch.padded_tokens,
            self.token_budget,
            budget,
            budget,
        )
        self.token_budget = budget
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _split(batch: MicroBatch, sequences: Sequence[np.ndarray], token_budget: int) -> list[MicroBatch]:
    """Cuts a batch that did not fit into batches of a smaller budget."""
    lengths = np.array([len(sequences[row]) for row in batch.rows])
    return [
        MicroBatch(tuple(batch.rows[place] for place in part.rows), part.longest, part.tokens)
        for part in plan_batches(lengths, token_budget).batches
    ]


def _placed(module: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """Moves a module to a device and casts its parameters, but not its buffers.

    ``module.to(dtype)`` would round the rotary frequencies too, and with them every position.
    """
    for parameter in module.parameters():
        parameter.data = parameter.data.to(device=device, dtype=dtype)
    return module.to(device)


def _is_out_of_memory(error: RuntimeError) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return True
    # The CPU allocator has no exception class of its own.
    text = str(error)
    return "can't allocate memory" in text or "not enough memory" in text

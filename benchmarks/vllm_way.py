"""vLLM as one of the ways of scoring: exports the model, and talks to ``vllm_worker.py`` in vLLM's environment."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from polar_ray.models.loaded import LoadedModel


@dataclass(frozen=True)
class Setting:
    """How vLLM is run.

    Attributes:
        name: As the tables call it.
        layout: The class in vLLM that the checkpoint is for.
        options: Arguments of ``vllm.LLM`` beside the model, dtype and length.
    """

    name: str
    layout: str
    options: dict[str, Any] = field(default_factory=dict)


SETTINGS = {
    "default": Setting("(c) vLLM", "LlamaForSequenceClassification"),
    "tuned": Setting("(c) tuned", "LlamaForSequenceClassification", {"block_size": 32}),
    "eager": Setting("(c) eager", "LlamaForSequenceClassification", {"enforce_eager": True}),
    "polar": Setting("(c) POLAR", "InternLM2ForRewardModel"),
}
"""``default`` is what ``vllm.LLM`` does by itself, torch.compile included; ``eager`` is that without torch.compile.

``tuned`` has cache blocks of 32 tokens in place of 128, so that more of a prefix is in whole blocks. ``polar`` is
POLAR's own layout, whose prefix cache vLLM does not read, as it comes.
"""


class Vllm:
    """A vLLM engine in a process of its own, loaded until it is closed.

    Attributes:
        settings: What vLLM made of its settings.
        cached: int64 ``[N]``, the tokens of each sequence of the latest call that came from the prefix cache.
    """

    def __init__(
        self,
        python: Path,
        setting: Setting,
        model: LoadedModel,
        folder: Path,
        *,
        dtype: str,
        longest: int,
        threads: int,
        clock: str,
    ) -> None:
        """Exports a model and starts an engine with it.

        Args:
            python: The interpreter of vLLM's environment.
            setting: How it is run.
            model: A Llama with a linear head of one label, its linear layers not packed.
            folder: An empty folder for the checkpoint and the sequences.
            dtype: Of the backbone.
            longest: Tokens of the longest sequence.
            threads: Threads that compute.
            clock: ``cpu`` or ``wall``.

        Raises:
            RuntimeError: It does not start; what it said is on the error stream.
        """
        export(model, setting.layout, folder)
        self._folder = folder
        task = "classify" if setting.layout == "LlamaForSequenceClassification" else "token_classify"
        # Blocks are whole, and the scheduler wants room for one more token.
        positions = (longest // 128 + 2) * 128
        command = [str(python), str(Path(__file__).with_name("vllm_worker.py")), str(folder), "--dtype", dtype]
        command += ["--longest", str(positions), "--task", task, "--clock", clock, "--threads", str(threads)]
        command += ["--options", json.dumps({"gpu_memory_utilization": 0.2} | setting.options)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["OMP_NUM_THREADS"] = str(threads)
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log("w"), text=True
        )
        self.settings = self._answer()["ready"]
        self.cached = np.empty(0, np.int64)

    def __enter__(self) -> "Vllm":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def score(self, sequences: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
        """Returns the seconds it took and the scores, float32 ``[N, 1]``. Sets ``cached``."""
        path = self._folder / "sequences.npz"
        lengths = np.array([len(ids) for ids in sequences])
        np.savez(path, ids=np.concatenate(sequences), lengths=lengths)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"sequences": str(path)}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.cached = np.array(answer["cached"], np.int64)
        return answer["seconds"], np.array(answer["scores"], np.float32)[:, None]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            with self._log("r") as log:
                told = log.read()[-3000:]
            raise RuntimeError(
                f"vLLM ended with exit code {self._process.returncode}. The end of what it said:\n{told}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _log(self, mode: str) -> IO[str]:
        return (self._folder / "vllm.log").open(mode)


def export(model: LoadedModel, layout: str, folder: Path) -> None:
    """Writes a Llama as a checkpoint of one of the two classes of vLLM in ``SETTINGS``.

    The configuration is Llama's in both cases, since transformers knows no InternLM2 without code of the checkpoint's
    own; vLLM chooses its class by ``architectures``, and that is where the two differ.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.backbone.state_dict().items()}
    config = model.backbone.config
    (weight,) = model.head.parameters()
    head = weight.detach().float()
    if layout == "InternLM2ForRewardModel":
        tensors = _as_internlm2(tensors, config) | {"v_head.weight": head}
    else:
        tensors["score.weight"] = head
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    settings = config.to_dict() | {
        "architectures": [layout],
        "model_type": "llama",
        "bias": False,
        "num_labels": 1,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "dtype": str(model.backbone.dtype).removeprefix("torch."),
    }
    (folder / "config.json").write_text(json.dumps(settings))
    # vLLM does not start without a tokenizer. It is given ids.
    words = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)


def _as_internlm2(tensors: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """Returns Llama's tensors under InternLM2's names; queries, keys and values of a key head lie together."""
    dim = config.hidden_size // config.num_attention_heads
    kv_heads = config.num_key_value_heads
    names = {
        "model.embed_tokens": "model.tok_embeddings",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in names.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    for layer in range(config.num_hidden_layers):
        parts = [
            renamed.pop(f"model.layers.{layer}.self_attn.{part}_proj.weight").view(
                kv_heads, -1, dim, config.hidden_size
            )
            for part in "qkv"
        ]
        renamed[f"model.layers.{layer}.attention.wqkv.weight"] = torch.cat(parts, 1).flatten(0, 2)
    return renamed

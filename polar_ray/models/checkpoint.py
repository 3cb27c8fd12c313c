"""A model's files: where they are, what they hold, and their hashes."""

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError, safe_open

from polar_ray.errors import CheckpointError
from polar_ray.models.damage import damage_of
from polar_ray.models.hashes import sha256_of

if TYPE_CHECKING:
    import torch

SMALL_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""The config, the tokenizer and the template: all that an encoder reads."""
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""The files that PEFT writes for an adapter; the first of the two that is there holds its tensors."""


def resolve(model: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """Returns the folder of a model, after downloading it where it is a Hugging Face id.

    Args:
        model: A local folder or a Hugging Face id.
        revision: Branch, tag or commit on the hub.
        weights: Whether the weights are needed too.

    Raises:
        CheckpointError: There is no such folder, and no such model on the hub or in its local cache.
    """
    return _folder(model, revision, [*SMALL_FILES, *(WEIGHT_FILES if weights else ())])


def resolve_adapter(adapter: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """Returns the folder of a PEFT adapter, as ``resolve`` returns a model's.

    Raises:
        CheckpointError: There is none.
    """
    return _folder(adapter, revision, [ADAPTER_CONFIG, *(ADAPTER_WEIGHTS if weights else ())])


def _folder(model: str, revision: str | None, patterns: list[str]) -> Path:
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(f"{model} is a local folder, which has no revision {revision}. Remove revision.")
        return folder.resolve()
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except HFValidationError as error:
        raise CheckpointError(
            f"There is no folder {model}, and it is not a Hugging Face id such as internlm/POLAR-7B. Correct model."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise CheckpointError(
            f"There is no folder {model}, and Hugging Face's hub gave no such model: {error} Check the spelling "
            "and the revision; without a network, give the path of a local folder."
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """Returns ``config.json`` as a dict.

    Raises:
        CheckpointError: It is missing or no JSON object.
    """
    if not (folder / "config.json").exists() and (folder / ADAPTER_CONFIG).exists():
        raise CheckpointError(
            f"{folder} holds an adapter and not a model. Give the model that it was trained on as model, and this as "
            "adapter."
        )
    return _read_json(folder / "config.json")


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Returns ``adapter_config.json`` as a dict.

    Raises:
        CheckpointError: It is missing or no JSON object.
    """
    return _read_json(folder / ADAPTER_CONFIG)


def read_tensors(folder: Path) -> Iterator[tuple[str, "torch.Tensor"]]:
    """Yields the name and the value of each tensor, one file in memory at a time.

    ``*.safetensors`` come before ``*.bin`` where a folder has both; ``*.bin`` is read by torch with
    ``weights_only=True``, which runs no code from the file.

    Raises:
        CheckpointError: There are no weights, a shard is missing, or a file is damaged.
    """
    for path in weight_files(folder):
        yield from read_tensor_file(path)


def read_tensor_file(path: Path) -> Iterator[tuple[str, "torch.Tensor"]]:
    """Yields the name and the value of each tensor of one file, as ``read_tensors`` does.

    Raises:
        CheckpointError: The file is damaged, or holds more than tensors.
    """
    import torch  # An encoder reads a config and a tokenizer, and must not pay for torch.

    with reading(path):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  (not a dict)
                    yield name, tensors.get_tensor(name)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
            for name, tensor in content.items():
                if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
                    raise TypeError(f"{name!r:.80} is a {type(tensor).__name__} and no tensor")
                yield name, tensor


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Says what is wrong with a file of tensors that cannot be read.

    Raises:
        CheckpointError: The file is damaged, or holds more than tensors.
    """
    try:
        with damage_of(path):
            yield
    except pickle.UnpicklingError as error:
        # What torch refuses to run; a damaged file looks so too.
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors, which could run code. Download it again, or convert it to "
            "safetensors where you trust it."
        ) from error
    except (SafetensorError, OSError, EOFError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Download it again.") from error


def weight_files(folder: Path) -> list[Path]:
    """Returns the files that hold the weights, in order: those of the index, or the single one.

    Raises:
        CheckpointError: There are none, or the index names one that is missing or outside of the folder.
    """
    for single in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{single}.index.json"
        if index.is_file():
            with damage_of(index):
                names = sorted(set(_read_json(index)["weight_map"].values()))
            for name in names:
                _check_beside(index, name)
            if missing := [name for name in names if not (folder / name).is_file()]:
                raise CheckpointError(f"{index} names files that are missing: {', '.join(missing)}. Download them.")
            return [folder / name for name in names]
        if (folder / single).is_file():
            return [folder / single]
    raise CheckpointError(
        f"{folder} has no weights: neither model.safetensors nor pytorch_model.bin, nor an index of shards."
    )


def _check_beside(index: Path, name: str) -> None:
    """Refuses a name that leads away from its index: what it names is read and its hash is published."""
    if name in ("", ".", "..") or name != Path(name).name or "\\" in name or "\0" in name:
        raise CheckpointError(
            f"{index} names the file {name!r:.200}, which does not lie beside it. Download the checkpoint again, from "
            "where you trust it."
        )


def adapter_weights(folder: Path) -> Path:
    """Returns the file that holds an adapter's tensors.

    Raises:
        CheckpointError: There is none.
    """
    for name in ADAPTER_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder} has no {' or '.join(ADAPTER_WEIGHTS)}. Give the folder of a whole PEFT adapter.")


def model_hashes(model: str, revision: str | None, adapter: str | None, adapter_revision: str | None) -> dict[str, str]:
    """Returns the SHA-256 of every file that can change what a model does, by name; an adapter's in ``adapter/``.

    Raises:
        CheckpointError: The files cannot be found.
    """
    hashes = file_hashes(resolve(model, revision))
    if adapter is not None:
        adapted = adapter_hashes(resolve_adapter(adapter, adapter_revision))
        hashes |= {f"adapter/{name}": digest for name, digest in adapted.items()}
    return hashes


def file_hashes(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 (hex) of each file that a score depends on: weights, config, tokenizer, template."""
    return {path.name: sha256_of(path) for path in scored_files(folder)}


def adapter_hashes(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 (hex) of an adapter's two files."""
    return {path.name: sha256_of(path) for path in adapter_files(folder)}


def scored_files(folder: Path) -> list[Path]:
    """Returns the files of a model that a score depends on.

    Raises:
        CheckpointError: There are no weights.
    """
    return sorted([*weight_files(folder), *(folder / name for name in SMALL_FILES if (folder / name).is_file())])


def adapter_files(folder: Path) -> list[Path]:
    """Returns the files of an adapter.

    Raises:
        CheckpointError: It has no weights.
    """
    return sorted([folder / ADAPTER_CONFIG, adapter_weights(folder)])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing. Give the folder of a whole model.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}). Download it again.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}). Mend its permissions.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object. Download it again.")
    return content

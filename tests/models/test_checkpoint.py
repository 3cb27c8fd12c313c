"""Finding and reading a model's files."""

import hashlib
import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file

from polar_ray.errors import CheckpointError
from polar_ray.models.checkpoint import file_hashes, read_config, read_tensors, resolve

GOLDEN = Path(__file__).parents[1] / "golden" / "polar"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "polar_tiny_a", tmp_path / "model"))


def test_a_local_folder_is_itself(folder: Path) -> None:
    assert resolve(str(folder)) == folder.resolve()


def test_a_local_folder_has_no_revision(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="no revision main"):
        resolve(str(folder), "main")


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no folder .*nowhere"):
        resolve(str(tmp_path / "nowhere"))


def test_a_model_that_is_not_in_the_cache_is_named_when_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="no folder some-team/some-model"):
        resolve("some-team/some-model")


def test_shards_are_read_in_full(folder: Path) -> None:
    expected = {}
    for shard in folder.glob("*.safetensors"):
        expected |= load_file(shard)
    tensors = dict(read_tensors(folder))
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_a_bin_file_is_read_without_running_code(folder: Path) -> None:
    expected = dict(read_tensors(folder))
    for shard in folder.glob("*.safetensors*"):
        shard.unlink()
    torch.save(expected, folder / "pytorch_model.bin")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in read_tensors(folder))
    torch.save({"v_head.weight": Path("code")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        dict(read_tensors(folder))


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"missing: model-00002-of-00003\.safetensors"):
        dict(read_tensors(folder))


@pytest.mark.parametrize(
    "name", ["../elsewhere.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\\b", "a\0b"]
)
def test_an_index_names_files_beside_it_only(folder: Path, name: str) -> None:
    shutil.copyfile(folder / "model-00001-of-00003.safetensors", folder.parent / "elsewhere.safetensors")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.norm.weight"] = name
    index.write_text(json.dumps(content))
    for use in (read_tensors, file_hashes):
        with pytest.raises(CheckpointError, match="which does not lie beside it"):
            list(use(folder))


def test_a_cut_off_shard_is_named(folder: Path) -> None:
    shard = folder / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003.safetensors cannot be read"):
        dict(read_tensors(folder))


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    for shard in folder.glob("*.safetensors*"):
        shard.unlink()
    with pytest.raises(CheckpointError, match="has no weights"):
        dict(read_tensors(folder))


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_bad_config_is_named(folder: Path, content: str | None) -> None:
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(folder)


def test_hashes_cover_weights_config_and_tokenizer(folder: Path) -> None:
    (folder / "README.md").write_text("not part of a score")
    hashes = file_hashes(folder)
    assert sorted(hashes) == [
        "config.json",
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    assert hashes["config.json"] == hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()


def test_one_changed_byte_changes_one_hash(folder: Path) -> None:
    before = file_hashes(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 10000}))
    after = file_hashes(folder)
    assert {name for name in before if before[name] != after[name]} == {"config.json"}

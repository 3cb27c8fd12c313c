"""Each format against rows of which it is known what its reader makes of them, and as ``datasets`` loads them."""

import json
import warnings
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from score_tables import Message, assistant, group, score_table, user, write_run

from polar_ray.deriving.derive import derive
from polar_ray.recipe.derive import DeriveRecipe

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "formats" / "readers.json").read_text(encoding="utf-8"))
SKY = [user("What color is the sky?")]
TALK = [{"role": "system", "content": "be terse"}, user("hi"), assistant("yo"), user("sky?")]


def golden_row(reader: str, name: str) -> dict[str, Any]:
    """Returns an example row that was given to a reader, which took it as it is meant."""
    [case] = [case for case in GOLDEN[reader] if case["name"] == name]
    row: dict[str, Any] = case["row"]
    return row


def exported(
    folder: Path, prompt: list[Message], good: str, bad: str, export: dict[str, Any], **parts: Any
) -> list[dict[str, Any]]:
    """Returns what is written of one prompt with a good and a bad answer, without provenance."""
    table = score_table([group("p", [0.25, 1.0], [bad, good], prompt=prompt)])
    run = write_run(folder / "run", table)
    task = parts or {"pairs": {}}
    data = {"run": {"path": str(run)}, "output": {"path": str(folder / "out")}, "compute": {"processes": 1}}
    files = {"provenance": False, "format": "parquet" if export["kind"] == "verl" else "jsonl"}
    derive(DeriveRecipe.of({**data, **task, "export": export, "files": files}))
    rows: list[dict[str, Any]] = []
    for path in sorted((folder / "out" / "data").rglob("part-*")):
        if path.suffix == ".parquet":
            rows += pq.read_table(path).to_pylist()
        else:
            rows += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return rows


@pytest.mark.parametrize(
    ("name", "prompt", "good", "bad", "export"),
    [
        ("conv_explicit", SKY, "It is blue.", "It is green.", {}),
        ("conv_explicit_system_multi", TALK, "blue", "green", {}),
        ("conv_implicit", SKY, "It is blue.", "It is green.", {"prompt": "implicit"}),
        ("std_explicit", [user("The sky is")], "blue.", "green.", {"style": "standard"}),
        ("std_explicit", [user("The sky is")], " blue.", " green.", {"style": "standard"}),
    ],
)
def test_trl_preference_rows_are_those_that_its_reader_takes(
    tmp_path: Path, name: str, prompt: list[Message], good: str, bad: str, export: dict[str, Any]
) -> None:
    [row] = exported(tmp_path, prompt, good, bad, {"kind": "trl_preference", **export})
    assert row == {**golden_row("trl", name), "margin": 0.75}


def test_trl_unpaired_rows_are_what_trl_makes_of_a_pair(tmp_path: Path) -> None:
    [case] = [case for case in GOLDEN["trl"] if case["name"] == "std_explicit"]
    labels = {"good": 0.5, "bad": 0.5 - 1e-3}
    rows = exported(
        tmp_path,
        [user("The sky is")],
        "blue.",
        "green.",
        {"kind": "trl_unpaired", "style": "standard"},
        labels=labels,
    )
    assert rows == case["trl.unpair"]


def test_trl_unpaired_rows_may_be_conversations(tmp_path: Path) -> None:
    rows = exported(tmp_path, SKY, "blue", "green", {"kind": "trl_unpaired"}, labels={"good": 1, "bad": 0.25})
    assert rows == [
        {"prompt": SKY, "completion": [assistant("blue")], "label": True},
        {"prompt": SKY, "completion": [assistant("green")], "label": False},
    ]


def test_trl_sft_rows_are_conversations_or_prompts_with_completions(tmp_path: Path) -> None:
    [row] = exported(tmp_path / "a", TALK, "blue", "green", {"kind": "trl_sft"}, best_of_n={})
    assert row == {"messages": [*TALK, assistant("blue")]}
    export = {"kind": "trl_sft", "style": "prompt_completion"}
    [row] = exported(tmp_path / "b", TALK, "blue", "green", export, best_of_n={})
    assert row == {"prompt": TALK, "completion": [assistant("blue")]}


def test_polar_rows_have_the_first_reference(tmp_path: Path) -> None:
    [row] = exported(tmp_path, SKY, "blue", "green", {"kind": "polar"})
    assert row == {
        "prompt": SKY,
        "reference": [assistant("reference p")],
        "chosen": [assistant("blue")],
        "rejected": [assistant("green")],
    }


def test_a_prompt_without_a_reference_costs_the_others_no_row(tmp_path: Path) -> None:
    rows = [group("with", [1.0, 0.0]), group("without", [1.0, 0.0], references=[]), group("more", [1.0, 0.0])]
    run = write_run(tmp_path / "run", score_table(rows))
    data = {"run": {"path": str(run)}, "output": {"path": str(tmp_path / "out")}, "compute": {"processes": 1}}
    manifest = derive(DeriveRecipe.of({**data, "pairs": {}, "export": {"kind": "polar"}}))
    lines = (tmp_path / "out" / "data" / "train" / "part-00000.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["reference"] for line in lines] == [
        [assistant("reference with")],
        [assistant("reference more")],
    ]
    assert manifest.ledger == {"not_in_format": 1}


def test_openrlhf_rows_are_conversations_that_it_reads_without_a_prompt_key(tmp_path: Path) -> None:
    [row] = exported(tmp_path, SKY, "It is blue.", "It is green.", {"kind": "openrlhf"})
    golden = golden_row("trl", "conv_implicit")
    assert row == {**golden, "margin": 0.75}
    # What its readers make of that row: the template is applied, and for DPO the answers are cut off right.
    for case in GOLDEN["openrlhf"]:
        if case["name"] == "conv_implicit":
            assert case["out"]["chosen"].endswith("It is blue.<|eot_id|>")
            assert case["out"]["rejected"].endswith("It is green.<|eot_id|>")


def test_openrlhf_sft_rows_have_input_and_output(tmp_path: Path) -> None:
    [row] = exported(tmp_path, SKY, "blue", "green", {"kind": "openrlhf"}, best_of_n={})
    assert row == {"input": SKY, "output": [assistant("blue")]}


@pytest.mark.parametrize(
    ("name", "prompt"), [("sharegpt_ranking", [user("sky?")]), ("sharegpt_ranking_multi_system", TALK)]
)
def test_llama_factory_rows_are_those_that_its_reader_takes(tmp_path: Path, name: str, prompt: list[Message]) -> None:
    assert exported(tmp_path, prompt, "blue", "green", {"kind": "llama_factory"}) == [golden_row("llamafactory", name)]


def test_llama_factory_kto_rows_have_true_booleans(tmp_path: Path) -> None:
    rows = exported(tmp_path, [user("sky?")], "blue", "green", {"kind": "llama_factory"}, labels={"good": 1, "bad": 0})
    assert rows == [golden_row("llamafactory", "sharegpt_kto_true")]
    assert rows[0]["kto_tag"] is True


@pytest.mark.parametrize("prompt", [[user("hi"), assistant("yo")], [user("hi"), user("again"), user("x")]])
def test_what_llama_factory_would_drop_in_silence_is_not_written(tmp_path: Path, prompt: list[Message]) -> None:
    assert exported(tmp_path, prompt, "blue", "green", {"kind": "llama_factory"}) == []
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["ledger"] == {"not_in_format": 1}


def test_the_entry_for_llama_factory_names_folders_that_are_there(tmp_path: Path) -> None:
    table = score_table([group(f"p{i}", [0.0, 1.0]) for i in range(20)])
    run = write_run(tmp_path / "run", table)
    data = {"run": {"path": str(run)}, "output": {"path": str(tmp_path / "out")}, "compute": {"processes": 1}}
    parts = {"name": "sky", "pairs": {}, "export": {"kind": "llama_factory"}, "files": {"validation": 0.3}}
    derive(DeriveRecipe.of({**data, **parts}))
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    assert info["sky"] == {
        "file_name": "data/train",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
        "ranking": True,
    }
    assert info["sky_validation"]["file_name"] == "data/validation"
    for entry in info.values():
        assert list((tmp_path / "out" / entry["file_name"]).glob("*.jsonl"))


def test_classifier_rows_have_their_label_as_text(tmp_path: Path) -> None:
    labels = {"good": 1, "bad": 0, "unsure": "keep"}
    assert exported(tmp_path, TALK, "blue", "green", {"kind": "classifier"}, labels=labels) == [
        {"messages": [*TALK, assistant("blue")], "label": "good"},
        {"messages": [*TALK, assistant("green")], "label": "unsure"},
    ]


def test_nemo_rl_rows_have_two_ranked_completions(tmp_path: Path) -> None:
    [row] = exported(tmp_path, TALK, "blue", "green", {"kind": "nemo_rl"})
    assert row == {
        "context": TALK,
        "completions": [
            {"rank": 0, "completion": [assistant("blue")]},
            {"rank": 1, "completion": [assistant("green")]},
        ],
    }


def test_verl_rows_are_text_in_parquet(tmp_path: Path) -> None:
    assert exported(tmp_path / "a", SKY, "blue", "green", {"kind": "verl"}) == [
        {"prompt": "What color is the sky?", "chosen": "blue", "rejected": "green"}
    ]
    assert exported(tmp_path / "b", TALK, "blue", "green", {"kind": "verl"}) == []
    [row] = exported(tmp_path / "c", TALK, "blue", "green", {"kind": "verl"}, best_of_n={})
    assert row == {"messages": [*TALK, assistant("blue")]}


def test_axolotl_rows_have_messages_and_one_message_each(tmp_path: Path) -> None:
    [row] = exported(tmp_path / "a", TALK, "blue", "green", {"kind": "axolotl"})
    assert row == {"messages": TALK, "chosen": assistant("blue"), "rejected": assistant("green")}
    assert exported(tmp_path / "b", [{"role": "critic", "content": "x"}], "a", "b", {"kind": "axolotl"}) == []


PAIRS: dict[str, Any] = {"strategy": {"kind": "all_pairs"}, "per_prompt": 3}
SELECTION: dict[str, Any] = {"top_k": 2}
LABELS: dict[str, Any] = {"good": 1.5, "bad": 0.5}
LOADED = [
    *(("pairs", PAIRS, kind) for kind in ("ids", "trl_preference", "polar", "openrlhf", "llama_factory", "axolotl")),
    *(("best_of_n", SELECTION, kind) for kind in ("ids", "trl_sft", "openrlhf", "llama_factory", "axolotl")),
    *(("labels", LABELS, kind) for kind in ("ids", "trl_unpaired", "llama_factory", "classifier")),
]
ONE_FORMAT = [
    ("pairs", PAIRS, "nemo_rl", "jsonl"),
    ("pairs", PAIRS, "verl", "parquet"),
    ("best_of_n", SELECTION, "verl", "parquet"),
]


@pytest.mark.parametrize(
    ("task", "config", "kind", "format"),
    [*((*case, format) for case in LOADED for format in ("jsonl", "parquet")), *ONE_FORMAT],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_folder_loads_with_datasets(
    tmp_path: Path, task: str, config: dict[str, Any], kind: str, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = [group(f"p{i}", [0.25, 1.0, 2.0, None]) for i in range(20)]
    # Models that are known only in later files must not change the type of a column.
    for candidate in (candidate for row in rows[:8] for candidate in row["candidates"]):
        candidate["model"] = None
    run = write_run(tmp_path / "run", score_table(rows))
    files = {"validation": 0.3, "shard_rows": 5, "format": format}
    data = {"run": {"path": str(run)}, "output": {"path": str(tmp_path / "out")}, "compute": {"processes": 1}}
    card = {"license": "cc-by-4.0", "language": ["en"], "tags": ["sky"]}
    parts = {task: config, "export": {"kind": kind}, "files": files, "card": card}
    manifest = derive(DeriveRecipe.of({**data, **parts}))
    from datasets import load_dataset
    from huggingface_hub import DatasetCard

    with warnings.catch_warnings():
        # What the library says about itself is not the point.
        warnings.simplefilter("ignore")
        loaded = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {side: len(loaded[side]) for side in loaded} == {
        "train": manifest.counts["train"],
        "validation": manifest.counts["validation"],
    }
    assert min(manifest.counts["train"], manifest.counts["validation"]) > 0
    front = DatasetCard.load(tmp_path / "out" / "README.md").data.to_dict()
    assert front["license"] == "cc-by-4.0"
    assert front["tags"] == ["polar-ray", task.replace("_", "-"), "sky"]
    assert front["size_categories"] == ["n<1K"]

"""TRL itself reads what is exported for it: its trainers take every row, and train on it."""

import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from score_tables import assistant, group, score_table, user, write_run

from polar_ray.deriving.derive import derive
from polar_ray.recipe.derive import DeriveRecipe

HEADS = Path(__file__).parents[1] / "golden" / "heads"
TOKENIZER = HEADS / "tok_llama3_no_bos_in_template"


@pytest.fixture(autouse=True)
def trl() -> Iterator[Any]:
    """TRL, quiet: what it says about itself and its own dependencies is not the point."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield import_module("trl")


@pytest.fixture
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(TOKENIZER)
    loaded.pad_token = loaded.eos_token
    return loaded


@pytest.fixture
def model(tmp_path: Path, tokenizer: Any) -> Any:
    """A random language model of a few thousand weights, from a folder as trainers make their second copy from it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "model")
    return LlamaForCausalLM.from_pretrained(tmp_path / "model")


def loaded(folder: Path, export: dict[str, Any], **task: Any) -> Any:
    """Derives from eight prompts (a system message, several turns, Chinese) and loads the result with ``datasets``."""
    prompts = [[user("hi")], [{"role": "system", "content": "be terse"}, user("hi"), assistant("yo"), user("天空呢？")]]
    texts = ["It is green.", "It is blue.", "It is blue, I think."]
    rows = [group(f"p{i}", [0.25, 2.0, 1.0], texts, prompt=prompts[i % 2]) for i in range(8)]
    run = write_run(folder / "run", score_table(rows))
    data = {"run": {"path": str(run)}, "output": {"path": str(folder / "out")}, "compute": {"processes": 1}}
    manifest = derive(DeriveRecipe.of({**data, **task, "export": export}))
    from datasets import load_dataset

    dataset = load_dataset(str(folder / "out"), split="train", cache_dir=str(folder / "cache"))
    assert len(dataset) == manifest.counts["rows"] > 0
    return dataset


def settings(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "trained"),
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
    }


@pytest.mark.parametrize("prompt", ["explicit", "implicit"])
def test_dpo_trainer_takes_every_pair(tmp_path: Path, trl: Any, tokenizer: Any, model: Any, prompt: str) -> None:
    dataset = loaded(tmp_path, {"kind": "trl_preference", "prompt": prompt}, pairs={})
    trainer = trl.DPOTrainer(
        model=model,
        args=trl.DPOConfig(**settings(tmp_path)),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    assert len(trainer.train_dataset) == len(dataset)
    row = trainer.train_dataset[0]
    assert tokenizer.decode(row["chosen_ids"]).strip().startswith("It is blue.")
    assert tokenizer.decode(row["rejected_ids"]).strip().startswith("It is green.")
    trainer.train()


@pytest.mark.parametrize("prompt", ["explicit", "implicit"])
def test_reward_trainer_takes_every_pair_with_its_margin(tmp_path: Path, trl: Any, tokenizer: Any, prompt: str) -> None:
    from transformers import AutoModelForSequenceClassification

    reward_model = AutoModelForSequenceClassification.from_pretrained(HEADS / "ckpt_llama_seqcls")
    reward_model.config.pad_token_id = tokenizer.pad_token_id
    dataset = loaded(tmp_path, {"kind": "trl_preference", "prompt": prompt}, pairs={})
    trainer = trl.RewardTrainer(
        model=reward_model,
        args=trl.RewardConfig(**settings(tmp_path)),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    assert trainer.train_dataset["margin"] == [1.75] * len(dataset)
    assert "It is blue." in tokenizer.decode(trainer.train_dataset[1]["chosen_ids"])
    trainer.train()


def test_kto_trainer_takes_every_label(tmp_path: Path, trl: Any, tokenizer: Any, model: Any) -> None:
    dataset = loaded(tmp_path, {"kind": "trl_unpaired"}, labels={"good": 1.5, "bad": 0.5})
    trainer = trl.KTOTrainer(
        model=model,
        args=trl.KTOConfig(**settings(tmp_path)),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    assert trainer.train_dataset["label"] == [True, False] * 8
    trainer.train()


@pytest.mark.parametrize("style", ["messages", "prompt_completion"])
def test_sft_trainer_takes_every_conversation(tmp_path: Path, trl: Any, tokenizer: Any, model: Any, style: str) -> None:
    dataset = loaded(tmp_path, {"kind": "trl_sft", "style": style}, best_of_n={})
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(**settings(tmp_path)),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    assert len(trainer.train_dataset) == len(dataset)
    assert "It is blue." in tokenizer.decode(trainer.train_dataset[0]["input_ids"])
    trainer.train()

"""How fast groups are tokenized: each whole sequence part as it is, and what a group's texts begin with only once.

    python benchmarks/encode.py --data FOLDER [--sets gsm8k humaneval ...] [--rows 128] [--rounds 3]
    python benchmarks/encode.py --data FOLDER --chat MODEL_FOLDER

POLAR's encoder with the real InternLM2 vocabulary (FOLDER/../tokenizer/internlm2.model) over real generations, or with
``--chat`` the encoder of a sequence classifier with that folder's tokenizer.json and chat template. The two ways take
turns in one process on one core; times are of the process. The ids of both are compared.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa

from polar_ray.data.listing import list_input
from polar_ray.data.parsing import parse_split
from polar_ray.data.reading import read_source
from polar_ray.data.sources import plan_sources
from polar_ray.errors import TokenizerError
from polar_ray.models.chat_tokenizer import ChatTokenizer
from polar_ray.models.sentencepiece_tokenizer import SentencePieceTokenizer
from polar_ray.models.tokenizer import TextTokenizer
from polar_ray.recipe.input import Input
from polar_ray.scorers.polar_encoder import PolarEncoder
from polar_ray.scorers.reward_encoder import RewardModelEncoder
from polar_ray.scorers.sequence_classifier_encoder import SequenceClassifierEncoder


class WholeTexts(SentencePieceTokenizer):
    """Tokenizes every different text as a whole."""

    def encode_joined(self, texts: Sequence[tuple[str, str]]) -> list[tuple[np.ndarray, ...]]:
        return TextTokenizer.encode_joined(self, texts)


class WholeConversations(ChatTokenizer):
    """Tokenizes every conversation as a whole."""

    def encode_groups(self, groups: Sequence[Sequence[str]]) -> list[list[np.ndarray | TokenizerError]]:
        # A group of one text has nothing to share.
        ids = iter(super().encode_groups([[text] for texts in groups for text in texts]))
        return [[next(ids)[0] for _ in texts] for texts in groups]


def polar_encoders(tokenizer: Path, folder: Path) -> tuple[RewardModelEncoder, RewardModelEncoder]:
    """Returns POLAR's encoder over whole texts, and as it is."""
    shutil.copy(tokenizer, folder / "tokenizer.model")
    config = {
        "model_type": "internlm2",
        "reward_token_id": 92527,
        "vocab_size": 92544,
        "max_position_embeddings": 32768,
    }
    (folder / "config.json").write_text(json.dumps(config))
    token = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {"added_tokens_decoder": {"92397": {"content": "<|reward|>", **token}}}
    (folder / "tokenizer_config.json").write_text(json.dumps(added))
    plain, shared = PolarEncoder.from_pretrained(folder), PolarEncoder.from_pretrained(folder)
    plain._tokens = replace(plain._tokens, tokenizer=WholeTexts(folder))
    return plain, shared


def chat_encoders(folder: Path) -> tuple[RewardModelEncoder, RewardModelEncoder]:
    """Returns the encoder of a sequence classifier over whole conversations, and as it is."""
    plain = SequenceClassifierEncoder.from_pretrained(folder)
    shared = SequenceClassifierEncoder.from_pretrained(folder)
    plain.tokenizer = WholeConversations(folder)
    return plain, shared


def splits(path: Path, rows: int) -> list[pa.Table]:
    """Returns the first groups of a file in tables of 64, as a run reads them."""
    config = Input.model_validate(
        {
            "path": str(path),
            "columns": {"candidates": "outputs"},
            "candidate_fields": {"candidate_id": "output_id", "messages": "content"},
            "split_rows": 64,
        }
    )
    tables: list[pa.Table] = []
    for source in plan_sources(list_input(config), config):
        for raw in read_source(source, config):
            tables.append(parse_split(raw, config).groups)
            if sum(len(table) for table in tables) >= rows:
                return tables
    return tables


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with gsm8k.parquet, …")
    parser.add_argument("--sets", nargs="+", default=["gsm8k", "arena_bench_v1", "oasst_n200", "humaneval"])
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.model; default: ../tokenizer/internlm2.model")
    parser.add_argument("--chat", type=Path, help="folder of a sequence classifier")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{'':16}{'candidates':>11}{'tokens':>12}{'whole, cand/s':>15}{'shared, cand/s':>16}{'times':>7}  ids")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = arguments.tokenizer or arguments.data.parent / "tokenizer" / "internlm2.model"
        encoders = chat_encoders(arguments.chat) if arguments.chat else polar_encoders(tokenizer, Path(folder))
        for name in arguments.sets:
            tables = splits(arguments.data / f"{name}.parquet", arguments.rows)
            candidates = sum(len(row) for table in tables for row in table.column("candidates"))
            seconds: tuple[list[float], list[float]] = ([], [])
            for _ in range(arguments.rounds):
                encoded = []
                for encoder, times in zip(encoders, seconds, strict=True):
                    started = time.process_time()
                    encoded.append([encoder.encode(table) for table in tables])
                    times.append(time.process_time() - started)
            tokens = sum(len(table.column("ids").combine_chunks().flatten()) for table in encoded[0])
            equal = "equal" if encoded[0] == encoded[1] else "DIFFERENT"
            whole, shared = (candidates / median(times) for times in seconds)
            print(
                f"{name:16}{candidates:>11,}{tokens:>12,}{whole:>15,.0f}{shared:>16,.0f}{shared / whole:>7.2f}  {equal}"
            )


if __name__ == "__main__":
    main()

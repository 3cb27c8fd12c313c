"""vLLM in its own environment: scores the sequences that it is told on its standard input.

``vllm_way.py`` starts it and explains the settings. Each line of input is a JSON object: ``{"sequences": FILE}`` names
an ``.npz`` file of int32 ``ids`` (all sequences, one behind the other) and int64 ``lengths``. It answers with one line,
``{"seconds": …, "scores": […], "cached": […]}``; ``cached`` counts the tokens of each sequence that its prefix
cache had. The first line that it writes is ``{"ready": …}``, with what vLLM made of its settings.
"""

import argparse
import json
import os
import sys
import time

# Everything that vLLM prints goes to the error stream, whatever its own loggers are set to.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # In this process, so that its processor time is seen, and on the threads that the other ways have.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}

import numpy as np  # noqa: E402
from vllm import LLM, PoolingParams  # noqa: E402


def main() -> None:
    """Loads the model, then answers until its input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a checkpoint")
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--longest", type=int, required=True, help="tokens of the longest sequence")
    parser.add_argument("--task", choices=["classify", "token_classify"], required=True)
    parser.add_argument("--clock", choices=["cpu", "wall"], required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--options", default="{}", help="further arguments of vllm.LLM, as JSON")
    arguments = parser.parse_args()
    model = LLM(
        arguments.folder,
        runner="pooling",
        dtype=arguments.dtype,
        max_model_len=arguments.longest,
        **json.loads(arguments.options),
    )
    config = model.llm_engine.vllm_config
    answer(
        ready={
            "block_size": config.cache_config.block_size,
            "prefix_caching": config.cache_config.enable_prefix_caching,
            "compilation": config.compilation_config.mode.name,
            "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
        }
    )
    parameters = PoolingParams(use_activation=False)
    for line in sys.stdin:
        with np.load(json.loads(line)["sequences"]) as file:
            sequences = np.split(file["ids"], np.cumsum(file["lengths"])[:-1])
        prompts = [{"prompt_token_ids": ids.tolist()} for ids in sequences]
        # What an earlier round has cached must not count.
        model.reset_prefix_cache()
        wall, cpu = time.perf_counter(), time.process_time()
        outputs = model.encode(prompts, pooling_params=parameters, pooling_task=arguments.task, use_tqdm=False)
        wall, cpu = time.perf_counter() - wall, (time.process_time() - cpu) / arguments.threads
        # One label, or one value for each token, of which the last is the score.
        scores = [float(output.outputs.data.flatten()[-1]) for output in outputs]
        cached = [output.num_cached_tokens for output in outputs]
        answer(seconds=wall if arguments.clock == "wall" else cpu, scores=scores, cached=cached)


def answer(**fields: object) -> None:
    answers.write(json.dumps(fields) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()

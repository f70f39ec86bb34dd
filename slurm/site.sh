# The settings of a cluster. Sourced by every job, and again on every node before its ranks start.
# shellcheck shell=bash

# EDIT: modules
# module purge
# module load gcc/13 cuda/12.8

# EDIT: Python environment; default: that of `dsprune submit`
if [[ -f .venv/bin/activate ]]; then source .venv/bin/activate; fi

# EDIT: container: the words before `python` on every node
CONTAINER=()
# CONTAINER=(apptainer exec --nv --bind "$PWD" dsprune.sif)

# EDIT: network and caches, the same for all ranks
# export NCCL_SOCKET_IFNAME=ib0 HF_HOME=/scratch/huggingface

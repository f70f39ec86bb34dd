"""The scripts of slurm/ as a site would have them: edited at their marked places, and nowhere else."""

import re
import shutil
import sys
from pathlib import Path

from dsprune.testing.commands import environment

SLURM = Path(__file__).resolve().parents[2] / "slurm"

# What a process of this test needs to find this Python and this dsprune.
CARRIED = ("PYTHONPATH", "TORCH_EXTENSIONS_DIR", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "HF_HUB_OFFLINE")


def edited_scripts(folder: Path, gpus: int, sparsities: str) -> Path:
    """A copy of slurm/ in which the lines below each EDIT are this site's."""
    slurm = Path(shutil.copytree(SLURM, folder / "slurm"))
    own = environment() | {"PYTHONPATH": str(SLURM.parent)}
    exports = " ".join(f"{name}={own[name]}" for name in CARRIED if name in own)
    path = f"export PATH={Path(sys.executable).parent}:$PATH {exports}"
    _edit(slurm / "site.sh", r"(# EDIT: Python environment.*\n).*\n", rf"\1{path}\n")
    for script in ("train.sbatch", "teacher.sbatch", "suite.sbatch"):
        header = f"#SBATCH --gpus-per-node={gpus}\n#SBATCH --cpus-per-task={gpus}\n#SBATCH --time=00:30:00\n"
        _edit(slurm / script, r"(# EDIT: GPUs.*\n)(?:#SBATCH.*\n){3}", rf"\1{header}")
    _edit(slurm / "pipeline.sh", r"(# EDIT: the sparsities.*\n).*\n", rf"\1SPARSITIES={sparsities}\n")
    return slurm


def _edit(path: Path, pattern: str, replacement: str) -> None:
    text, edits = re.subn(pattern, replacement, path.read_text())
    assert edits == 1, f"{path}: its marked places are not where they were"
    path.write_text(text)

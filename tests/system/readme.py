"""Run the code of the README unchanged."""

import os
import re
from pathlib import Path
from typing import Any

import torch

from dsprune.ranks.collectives import Comm
from dsprune.testing.tiny import TinyModel

README = Path(__file__).resolve().parents[2] / "README.md"


def blocks(language: str, file: Path = README) -> list[str]:
    """The code blocks of a Markdown file in a language."""
    text = file.read_text(encoding="utf-8")
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [code for name, code in fences if name == language]


class Examples(torch.utils.data.Dataset):
    """Something to train on; DeepSpeed's loader makes the batches."""

    def __len__(self) -> int:
        return 96

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = (torch.arange(5) * 3 + index) % 11
        return {"tokens": tokens, "labels": tokens.sum() % 3}


def run_the_loop(comm: Comm, folder: str) -> dict[str, float]:
    """Run the README's loop for the epochs of its recipe, in a new folder; return sparsity and step."""
    os.environ.update(LOCAL_RANK=str(comm.rank))
    os.chdir(folder)
    Path("recipe.yaml").write_text(blocks("yaml")[0])
    Path("ds_config.json").write_text((README.parent / "ds_configs" / "zero1.json").read_text())
    setup, loop = blocks("python")[0].split("for batch in loader:")
    names: dict[str, Any] = {"model": TinyModel(), "data": Examples()}
    exec(setup, names)
    engine = names["engine"]
    while engine.applied_steps < engine.timetable.total_steps:
        exec("for batch in loader:" + loop, names)
    return {"step": engine.applied_steps, **engine.sparsity()}

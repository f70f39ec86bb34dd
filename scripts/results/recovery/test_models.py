"""Evaluate all models of the study on the test split: `python scripts/results/recovery/test_models.py [runs/recovery]`.

The test split is test.csv beside the training data. A task without one, on which nothing was chosen, is evaluated on
its validation data.

Each run gets a file test.json beside its summary, as `dsprune eval` would print it. Finished ones are kept.
"""

import json
import sys
from pathlib import Path

import torch

from dsprune.recipe import load_recipe
from dsprune.report.runs import find_folders
from dsprune.train.evaluation import evaluate_model
from dsprune.train.run_folder import RunFolder
from dsprune.utils.files import replace_text

TEST = "test.json"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main(home: Path) -> None:
    """Evaluate the models of the finished runs below a folder that have no test.json yet."""
    for run in find_folders([home], "summary.json"):
        if (run / TEST).is_file():
            continue
        folder = RunFolder(run)
        settings = load_recipe(str(folder.recipe)).task
        assert settings is not None, run
        train = getattr(settings, "train", None)
        part = Path(train).with_name("test.csv") if train else None
        test = settings.model_copy(update={"validation": str(part)}) if part and part.is_file() else settings
        metrics = evaluate_model(str(folder.model), test, device=DEVICE)
        replace_text(run / TEST, json.dumps(metrics) + "\n")
        print(run, metrics, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/recovery"))

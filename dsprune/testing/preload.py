"""What the ranks of a test import, and the extension that each would otherwise load: done once, before they fork."""

from importlib import import_module

from dsprune.zero.ops import load_collectives

MODULES = (
    "deepspeed.runtime.zero.stage3",
    "deepspeed.runtime.zero.stage_1_and_2",
    "dsprune.commands.report",
    "dsprune.train.train",
    "torchmetrics.functional.classification",
    "transformers.models.bert.modeling_bert",
)
"""All that a run of a tiny model imports, though some of it late."""

for module in MODULES:
    import_module(module)
load_collectives()

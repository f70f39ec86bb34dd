"""What the ranks of a test import, and the extension that each would otherwise load: done once, before they fork."""

import gc

import deepspeed.runtime.zero.stage3
import deepspeed.runtime.zero.stage_1_and_2  # noqa: F401
import torchmetrics.functional.classification  # noqa: F401
import transformers.models.bert.modeling_bert  # noqa: F401

import dsprune.commands.report
import dsprune.train.train  # noqa: F401
from dsprune.zero.ops import load_collectives

load_collectives()
gc.freeze()  # so that a collection in a fork does not copy the pages of what was imported

"""What the ranks of a test import, and what each would otherwise load and compile: done once, before they fork."""

import gc

import deepspeed.module_inject.auto_ep_layer
import deepspeed.runtime.zero.stage3
import deepspeed.runtime.zero.stage_1_and_2  # noqa: F401
import torchmetrics.functional.classification  # noqa: F401
import transformers.data.data_collator
import transformers.models.bert.modeling_bert  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import dsprune.commands.report
import dsprune.methods.fisher
import dsprune.tasks.text_classification
import dsprune.train.train  # noqa: F401
from dsprune.zero.ops import import_muon, load_collectives

load_collectives()
import_muon()
get_checkpoint_conversion_mapping("bert")  # a thousand regular expressions, of all models
gc.freeze()  # so that a collection in a fork does not copy the pages of what was imported

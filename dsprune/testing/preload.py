"""Import and compile once, before the fork, what all ranks of the tests need."""

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
from dsprune.zero.ops import import_muon

import_muon()
get_checkpoint_conversion_mapping("bert")  # a thousand regular expressions, of all models
gc.freeze()  # so that garbage collection in a fork does not copy the imported pages

"""Damaged and invalid files of other tools, for `dsprune convert`."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dsprune.commands.convert.convert import convert_file
from dsprune.testing.fuzz.attempt import Attempt, Target, named
from dsprune.testing.fuzz.damage import damage_json
from dsprune.testing.fuzz.settings import damage_yaml

__all__ = ["CONVERT_TARGETS"]

SPARSEML = """
epochs: 12
target: eval(1 - 0.1)
training_modifiers:
  - !EpochRangeModifier
    start_epoch: 0
    end_epoch: eval(epochs)
  - !LearningRateFunctionModifier
    start_epoch: 0
    end_epoch: 12
    lr_func: cyclic_linear
    cycle_epochs: 3.0
    init_lr: 8e-5
    final_lr: 8e-6
  - !SetWeightDecayModifier
    weight_decay: 0.01
pruning_modifiers:
  - !OBSPruningModifier
    params: ["re:bert.encoder.layer.*.(query|key).weight", "re:.*output.dense.weight"]
    init_sparsity: 0.5
    final_sparsity: eval(target)
    start_epoch: 3
    end_epoch: 9
    update_frequency: 3.0
    num_grads: 512
  - !DistillationModifier
    hardness: 1.0
    temperature: 2.0
    distill_output_keys: [logits]
"""

DEEPSPEED = {
    "train_batch_size": 32,
    "optimizer": {"type": "Adam", "params": {"lr": 1e-3}},
    "scheduler": {"type": "OneCycle", "params": {"cycle_min_lr": 1e-4, "cycle_max_lr": 1e-3}},
    "compression_training": {
        "layer_reduction": {"enabled": True, "teacher_layer": [1, 3]},
        "sparse_pruning": {
            "shared_parameters": {"enabled": True, "schedule_offset": 20, "method": "snip_momentum",
                                  "schedule_offset_end": 90, "schedule_offset_stride": 10},
            "different_groups": {"sp1": {"params": {"dense_ratio": 0.4}, "modules": ["attention.self"]}},
        },
    },
}  # fmt: skip


ONE_SHOT = """
stage:
  modifiers:
    WandaPruningModifier:
      sparsity: 0.5
      mask_structure: "2:4"
      targets: ["re:.*layers.0$", Linear]
      ignore: [lm_head]
    LearningRateModifier:
      lr_class: CosineAnnealingWarmRestarts
      lr_kwargs: {lr_min: 0.001, cycle_epochs: 2, T_mult: 2}
      init_lr: 0.1
      start: 0
      end: 6
    EpochRangeModifier: {start: 0, end: 6}
"""


@dataclass(frozen=True)
class _Recipe:
    """A recipe of another tool with damaged bytes or absurd values."""

    text: str

    def attempt(self, folder: Path, rng: random.Random) -> Attempt:
        source, path = folder / "source.txt", folder / "recipe.yaml"
        source.write_text(self.text)
        return Attempt(damage_yaml(source, path, rng), [named(lambda: _convert(path), "convert_file")])


class _Compression:
    """A ds_config with `compression_training` and absurd values."""

    def attempt(self, folder: Path, rng: random.Random) -> Attempt:
        path = folder / "compression.json"
        path.write_text(json.dumps(DEEPSPEED, indent=1))
        return Attempt(damage_json(path, rng), [named(lambda: _convert(path), "convert_file")])


CONVERT_TARGETS: Mapping[str, Callable[[Path], Target]] = {
    "sparseml": lambda folder: _Recipe(SPARSEML),
    "one-shot": lambda folder: _Recipe(ONE_SHOT),
    "compression": lambda folder: _Compression(),
}


def _convert(path: Path) -> None:
    assert convert_file(path).text.startswith("# Converted by `dsprune convert`")

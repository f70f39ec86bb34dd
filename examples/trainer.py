"""Prune in transformers' Trainer: wrap it in `dsprune.pruning`.

python examples/trainer.py OUTPUT
deepspeed --num_gpus 8 --no_local_rank examples/trainer.py OUTPUT
"""

import os
import sys
from pathlib import Path

import torch
from transformers import Trainer, TrainingArguments

import dsprune
from data import Sentences, tiny_model

ds_config = {
    "zero_optimization": {"stage": 2},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "torch_adam": True}},
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
}
output, ranks = Path(sys.argv[1]), int(os.environ.get("WORLD_SIZE", "1"))
resume = output / "checkpoint-6" if "--resume" in sys.argv else None
model = tiny_model()
model.accepts_loss_kwargs = False  # its loss is a mean: the Trainer would multiply it by the number of ranks

with dsprune.pruning(str(Path(__file__).with_name("recipe.yaml"))):
    arguments = TrainingArguments(
        output_dir=str(output),
        deepspeed=ds_config,
        num_train_epochs=3,
        per_device_train_batch_size=16 // ranks,  # the recipe's batch
        learning_rate=1e-3,
        logging_steps=1,
        save_steps=6,
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Sentences())
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    trainer.save_model(str(output / "model"))  # holds the masks too
if trainer.is_world_process_zero():
    print(
        f"sparsity {trainer.deepspeed.sparsity()['sparsity_prunable']:.4f} after {trainer.state.global_step} steps"
    )

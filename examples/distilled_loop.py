"""Distil in a DeepSpeed loop of your own, from teacher logits that are computed once.

python examples/data.py OUTPUT               # a tiny teacher, sentences, and OUTPUT/recipe.yaml
dsprune teacher OUTPUT/recipe.yaml           # the store
python examples/distilled_loop.py OUTPUT     # or under a launcher, as examples/own_loop.py
"""

import sys
from pathlib import Path

import datasets
import deepspeed
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

import dsprune

output = Path(sys.argv[1])
recipe = output / "recipe.yaml"
tokenizer = AutoTokenizer.from_pretrained(output / "teacher")
rows = datasets.load_dataset("csv", data_files=str(output / "train.csv"), split="train")
examples = rows.map(lambda row: tokenizer(row["text"]), remove_columns="text").rename_column(
    "label", "labels"
)

engine, _, loader, _ = dsprune.initialize(
    model=AutoModelForSequenceClassification.from_pretrained(output / "student"),
    config="zero2",
    recipe=recipe,
    training_data=examples,
    collate_fn=DataCollatorWithPadding(tokenizer),
)
distillation = dsprune.DistillationLoss(output / "store", recipe, tokenizer, data=examples)
# In transformers' Trainer: distillation.use_in(trainer)
while engine.applied_steps < engine.timetable.total_steps:
    for batch in loader:
        batch = {name: value.to(engine.device) for name, value in batch.items()}
        loss = distillation(engine, engine(**batch), batch)
        engine.backward(loss)
        engine.step()
engine.save_model(output / "model", tokenizer)
if deepspeed.comm.get_rank() == 0:
    print(f"sparsity {engine.sparsity()['sparsity_prunable']:.4f} after {engine.applied_steps} steps")

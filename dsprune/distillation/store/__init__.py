"""The teacher store: what a teacher said of each sample of a dataset, computed once, read from disk.

folder/shard-00000.safetensors   records by ascending fingerprint: `fingerprint`, and for each output its
...                              `offsets` (record i has rows offsets[i] to offsets[i + 1]) and columns
folder/head.safetensors          kind `hidden`: weight and bias of the last linear layer of each output
folder/store.json                the manifest, written last: a folder without it is no store
"""

from dsprune.distillation.store.fingerprint import fingerprint, fingerprints
from dsprune.distillation.store.format import Output, StoreSpec, check_origin
from dsprune.distillation.store.plan import StorePlan, plan_store
from dsprune.distillation.store.reader import Block, Store, open_store
from dsprune.distillation.store.writer import (
    Begun,
    ShardWriter,
    begin_store,
    begun_store,
    finish_store,
    missing_shards,
)

__all__ = [
    "Begun",
    "Block",
    "Output",
    "ShardWriter",
    "Store",
    "StorePlan",
    "StoreSpec",
    "begin_store",
    "begun_store",
    "check_origin",
    "fingerprint",
    "fingerprints",
    "finish_store",
    "missing_shards",
    "open_store",
    "plan_store",
]

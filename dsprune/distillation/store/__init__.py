"""The teacher store: a teacher's outputs for each sample of a dataset, computed once and read from disk.

folder/shard-00000.safetensors   records in ascending order of fingerprint: `fingerprint`, and for each output its
...                              `offsets` (record i has rows offsets[i] to offsets[i + 1]) and columns
folder/head.safetensors          kind `hidden`: weight and bias of the last linear layer of each output
folder/index.safetensors         the fingerprints of all records, and the first record of each shard
folder/store.json                the manifest, written last: without it the store is incomplete
"""

from dsprune.distillation.store.format import Output, StoreSpec, check_origin, fingerprint, fingerprints
from dsprune.distillation.store.reader import Block, Store, open_store
from dsprune.distillation.store.sizes import StorePlan, plan_store
from dsprune.distillation.store.writer import (
    ExistingStore,
    ShardWriter,
    begin_store,
    find_store,
    finish_store,
    missing_shards,
)

__all__ = [
    "Block",
    "ExistingStore",
    "Output",
    "ShardWriter",
    "Store",
    "StorePlan",
    "StoreSpec",
    "begin_store",
    "check_origin",
    "find_store",
    "fingerprint",
    "fingerprints",
    "finish_store",
    "missing_shards",
    "open_store",
    "plan_store",
]

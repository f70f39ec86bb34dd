import os,sys,torch
torch.set_num_threads(1)
from dsprune.distributed.ranks import find_ranks
find_ranks()
import deepspeed
deepspeed.init_distributed(verbose=False)
import torch.distributed as dist
from tests.engine.scenarios import *
for stage in (0,1,2,3):
  for prec in ("fp32","bf16"):
    r=recipe(prec)
    with pruning_engine(ds_config(stage,prec), r) as e:
        if dist.get_rank()==0: print(stage,prec,type(e.deepspeed.optimizer).__name__, e.timetable.events, e.pruner.layout.shards[0])
        for s in range(12):
            train_step(e,s)
            f=e.pruner.audit()
            assert not f,(s,f)
        d=e.pruner.masks.digest(e.pruner.comm)
        if dist.get_rank()==0: print(e.sparsity(), d, float(e.get_global_grad_norm() or 0), e.clock)

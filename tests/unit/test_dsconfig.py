"""The ds_config of a run: the owner of each value, and settings that are refused by name."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.accelerator import real_accelerator
from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator
from deepspeed.autotuning import constants as autotuning_constants
from deepspeed.compile.config import CompileConfig
from deepspeed.runtime import config as deepspeed_config
from deepspeed.runtime import constants
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.data_pipeline import constants as data_constants
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.tensor_parallel.config import TPTrainingConfig
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.offload_config import (
    DeepSpeedZeroOffloadOptimizerConfig,
    DeepSpeedZeroOffloadParamConfig,
)

from dsprune.errors import UserError
from dsprune.recipe import Recipe
from dsprune.testing.engines import fp16_allowed
from dsprune.utils.installation import shipped_names
from dsprune.zero.config import load_ds_config, resolve_ds_config
from dsprune.zero.keys import num_moments
from dsprune.zero.limits import (
    _REFUSED,
    OPTIMIZERS_OF_DEEPSPEED,
    OPTIMIZERS_OF_TORCH,
    check_device,
    check_ds_config,
    check_optimizer_state,
)
from dsprune.zero.schema import DsConfig

AUTO: dict[str, Any] = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto"}},
    "bf16": {"enabled": "auto"},
    "zero_optimization": {"stage": 2},
}


def recipe(batch: int = 16, micro_batch: int | None = None, **settings: Any) -> Recipe:
    budget = {"steps": 8, "batch": batch, "micro_batch": micro_batch}
    peak = {"learning_rate": {"peak": 0.001}}
    return Recipe.model_validate({"name": "test", "budget": budget} | peak | settings)


def resolve(
    changes: dict[str, Any] | None = None, by: Recipe | None = None, world_size: int = 2
) -> dict[str, Any]:
    return resolve_ds_config(AUTO | (changes or {}), by or recipe(), world_size)


def nested(dotted: str, value: Any) -> dict[str, Any]:
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return value


# ---- who owns a value


def test_every_auto_comes_from_the_recipe() -> None:
    settings = {"weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-6}
    config = resolve(by=recipe(gradient_clipping=0.5, precision="bf16", optimizer=settings))
    assert config == {
        "train_batch_size": 16,
        "train_micro_batch_size_per_gpu": 8,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.5,
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": 0.001, "betas": [0.8, 0.9], "eps": 1e-6, "weight_decay": 0.1},
        },
        "bf16": {"enabled": True},
        "fp16": {"enabled": False},
        "zero_optimization": {"stage": 2},
    }


def test_the_given_config_is_not_changed() -> None:
    given = copy.deepcopy(AUTO)
    resolve_ds_config(given, recipe(), world_size=2)
    assert given == AUTO


def test_a_default_of_the_recipe_gives_way() -> None:
    params = {"lr": "auto", "weight_decay": 0.3, "betas": [0.5, 0.6]}
    own = {
        "gradient_clipping": 7.0,
        "optimizer": {"type": "Adam", "params": params},
        "bf16": {"enabled": True},
    }
    config = resolve(own)
    assert config["gradient_clipping"] == 7.0
    assert config["bf16"] == {"enabled": True}
    assert config["optimizer"]["type"] == "Adam"
    assert config["optimizer"]["params"] == params | {"lr": 0.001, "eps": 1e-8}


def test_equal_values_on_both_sides_agree() -> None:
    own = {"gradient_clipping": 0.5, "bf16": {"enabled": True}, "train_batch_size": 16}
    config = resolve(own, recipe(gradient_clipping=0.5, precision="bf16"))
    assert (config["gradient_clipping"], config["bf16"]["enabled"]) == (0.5, True)


def test_a_scaled_peak_may_be_given_as_it_is_shown() -> None:
    """The Trainer fills "auto" with the rate of its arguments, which a user copies from a message."""
    settings = recipe(learning_rate={"dense": 1e-3}, pruning={"sparsity": 0.9})
    assert "learning_rate.peak=0.0033 " in settings.learning_rate.shown_peak
    own = {"optimizer": {"type": "AdamW", "params": {"lr": 0.0033}}}
    assert resolve(own, settings)["optimizer"]["params"]["lr"] == 0.0033
    own["optimizer"]["params"]["lr"] = 0.00331
    with pytest.raises(
        UserError, match=r'params.lr=0.00331: set one .* "auto" .* fills from TrainingArguments'
    ):
        resolve(own, settings)


@pytest.mark.parametrize(
    ("own", "settings", "message"),
    [
        ({"gradient_clipping": 1.0}, {"gradient_clipping": 2.0}, "gradient_clipping=2.0 .* gradient_clipping=1.0"),
        ({"fp16": {"enabled": True}}, {"precision": "bf16"}, "precision='bf16' .* fp16.enabled=True"),
        ({"bf16": {"enabled": True}}, {"precision": "fp32"}, "precision='fp32' .* bf16.enabled=True"),
        ({"train_batch_size": 32}, {}, "budget.batch=16 but ds_config: train_batch_size=32: set one of them"),
        (
            {"train_micro_batch_size_per_gpu": 4},
            {"micro_batch": 2},
            "budget.micro_batch=2 .* train_micro_batch_size_per_gpu=4",
        ),
        (
            {"optimizer": {"type": "AdamW", "params": {"lr": 0.1}}},
            {},
            "learning_rate.peak=0.001 but ds_config: optimizer.params.lr=0.1",
        ),
        (
            {"optimizer": {"type": "AdamW", "params": {"lr": 0.1}}},
            {"learning_rate": {"dense": 0.2}},
            r"learning_rate.peak=0.2 \(learning_rate.dense=0.2\) but ds_config: optimizer.params.lr=0.1",
        ),
        ({"optimizer": {"type": "Adam"}}, {"optimizer": {"type": "AdamW"}}, "optimizer.type='AdamW' .*'Adam'"),
    ],
)  # fmt: skip
def test_a_disagreement_names_both_sides(own: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(own, recipe(**settings))


def test_all_disagreements_are_said_at_once() -> None:
    own = {"gradient_clipping": 1.0, "train_batch_size": 8, "scheduler": {"type": "WarmupLR"}, "fp_16": {}}
    with pytest.raises(UserError) as caught:
        resolve(own, recipe(gradient_clipping=2.0))
    for part in (
        "gradient_clipping=2.0",
        "train_batch_size=8",
        "scheduler: the recipe's",
        "unknown key 'fp_16'",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_scheduler_of_its_own_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"ds_config: scheduler: the recipe's learning_rate owns the schedule"
    ):
        resolve({"scheduler": {"type": "WarmupLR", "params": {}}})


def test_an_auto_that_nobody_fills_is_refused() -> None:
    own = {"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}}
    with pytest.raises(UserError, match=r"zero_optimization.reduce_bucket_size='auto': the recipe sets"):
        resolve(own)


def test_without_a_peak_the_config_must_have_a_learning_rate() -> None:
    without = recipe(learning_rate={})
    with pytest.raises(
        UserError, match=r"optimizer.params.lr='auto': .*: set learning_rate\.dense or learning_rate\.peak$"
    ):
        resolve(by=without)
    own = {"optimizer": {"type": "AdamW", "params": {"lr": 0.1}}}
    assert resolve(own, without)["optimizer"]["params"]["lr"] == 0.1


@pytest.mark.parametrize(
    ("key", "value"), [("optimizer", "AdamW"), ("bf16", True), ("params", [1]), ("zero_optimization", 2)]
)
def test_what_must_be_a_section_is_one(key: str, value: Any) -> None:
    own = {"optimizer": {"type": "AdamW", "params": value}} if key == "params" else {key: value}
    with pytest.raises(
        UserError, match=r"must be a section with keys of its own|DeepSpeed refuses it: .*mapping"
    ):
        resolve(own)


# ---- the optimizer's settings


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("SGD", {"lr", "weight_decay"}),
        ("RMSprop", {"lr", "weight_decay", "eps"}),
        ("NAdam", {"lr", "weight_decay", "betas", "eps"}),
        ("adamw", {"lr", "weight_decay", "betas", "eps"}),
    ],
)
def test_an_optimizer_gets_only_the_defaults_that_it_takes(name: str, params: set[str]) -> None:
    allowed = {"zero_allow_untested_optimizer": True}
    by_config = resolve({"optimizer": {"type": name}} | allowed)["optimizer"]
    by_recipe = resolve({"optimizer": {}} | allowed, recipe(optimizer={"type": name}))["optimizer"]
    assert by_config == by_recipe
    assert set(by_config["params"]) == params


@pytest.mark.parametrize("name", shipped_names("ds_configs"))
def test_the_weight_decay_of_adam_is_added_to_the_gradient_if_asked(name: str) -> None:
    coupled = recipe(optimizer={"type": "Adam", "decoupled": False})
    made = resolve(load_ds_config(name), coupled)["optimizer"]
    assert (made["type"], made["params"]["adam_w_mode"]) == ("Adam", False)
    assert "adam_w_mode" not in resolve(load_ds_config(name))["optimizer"]["params"]
    with pytest.raises(UserError, match=r"optimizer.decoupled=False .* optimizer.params.adam_w_mode=True"):
        resolve({"optimizer": {"params": {"adam_w_mode": True}}}, coupled)
    with pytest.raises(UserError, match=r"^optimizer.decoupled: value False: the type AdamW cannot"):
        resolve(load_ds_config(name), recipe(optimizer={"decoupled": False}))


@pytest.mark.parametrize("name", ["SGD", "NAdam", "Lamb"])
def test_an_optimizer_that_deepspeed_has_not_tested_is_refused_from_stage_1_on(name: str) -> None:
    own: dict[str, Any] = {"optimizer": {"type": name}, "zero_optimization": {"stage": 1}}
    says = f"^ds_config: zero_allow_untested_optimizer: DeepSpeed has not tested {name} at ZeRO stage 1: set it to true"
    for value in ({}, {"zero_allow_untested_optimizer": False}):
        with pytest.raises(UserError, match=says):
            resolve(own | value)
    resolve(own | {"zero_allow_untested_optimizer": True})
    resolve(own | {"zero_optimization": {"stage": 0}})


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ({"type": "AdamW"}, 2),
        ({"type": "AdamW", "params": {"torch_adam": True, "fused": True}}, 2),
        ({"type": "AdamW", "params": {"torch_adam": True, "amsgrad": True}}, 3),
        ({"type": "SGD"}, 0),
        ({"type": "SGD", "params": {"momentum": 0.9}}, 1),
        ({"type": "RMSprop"}, 1),
        ({"type": "NAdam"}, 2),
    ],
)
def test_the_moments_of_an_optimizer_are_counted(optimizer: dict[str, Any], expected: int) -> None:
    assert num_moments(resolve({"optimizer": optimizer, "zero_optimization": {"stage": 0}})) == expected


def test_a_method_that_the_optimizer_cannot_serve_is_refused() -> None:
    fisher = recipe(pruning={"sparsity": 0.9, "method": "fisher"}, optimizer={"type": "SGD"})
    with pytest.raises(UserError, match=r"^pruning.method: 'fisher' reads exp_avg_sq .* SGD"):
        resolve({"optimizer": {}}, fisher)


# ---- batch = ranks x micro-batch x accumulation


@pytest.mark.parametrize(
    ("batch", "micro_batch", "own", "world_size", "expected"),
    [
        (16, None, {}, 1, (16, 1)),
        (16, None, {}, 4, (4, 1)),
        (16, 2, {}, 2, (2, 4)),
        (16, None, {"train_micro_batch_size_per_gpu": 4}, 2, (4, 2)),
        (16, None, {"gradient_accumulation_steps": 4}, 2, (2, 4)),
        (16, 2, {"gradient_accumulation_steps": 4}, 2, (2, 4)),
    ],
)
def test_what_is_open_follows_from_the_rest(
    batch: int, micro_batch: int | None, own: dict[str, Any], world_size: int, expected: tuple[int, int]
) -> None:
    config = resolve(own, recipe(batch, micro_batch), world_size)
    found = config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]
    assert found == expected
    assert config["train_batch_size"] == batch == world_size * found[0] * found[1]


@pytest.mark.parametrize(
    ("batch", "micro_batch", "own", "world_size", "message"),
    [
        (16, None, {}, 3, "budget.batch=16: is not 3 ranks x micro-batch 5 x accumulation 1"),
        (4, None, {}, 8, "budget.batch=4: is not 8 ranks x micro-batch 1 x accumulation 1"),
        (16, 4, {}, 3, "budget.batch=16: is not 3 ranks x micro-batch 4 x accumulation 1"),
        (16, None, {"gradient_accumulation_steps": 3}, 1, "micro-batch 5 x accumulation 3"),
        (16, 2, {"gradient_accumulation_steps": 2}, 2, "2 ranks x micro-batch 2 x accumulation 2"),
        (16, None, {"gradient_accumulation_steps": 0}, 1, "gradient_accumulation_steps=0: must be a whole"),
        (16, None, {"train_micro_batch_size_per_gpu": "4"}, 1, "per_gpu='4': must be a whole number above 0"),
        (16, None, {"train_micro_batch_size_per_gpu": True}, 1, "per_gpu=True: must be a whole number above 0"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_multiply_to_the_batch_are_refused(
    batch: int, micro_batch: int | None, own: dict[str, Any], world_size: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        resolve(own, recipe(batch, micro_batch), world_size)


# ---- keys and values that DeepSpeed would ignore or refuse


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("zero_optimisation", "zero_optimization"),
        ("gradient_acumulation_steps", "gradient_accumulation_steps"),
        ("optimiser", "optimizer"),
        ("fp_16", "fp16"),
        ("actvation_checkpointing", "activation_checkpointing"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_right_one(key: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"ds_config: unknown key '{key}'.* did you mean '{meant}'"):
        resolve({key: {}})


def test_a_section_has_its_old_name_or_the_new_one() -> None:
    given = {key: value for key, value in AUTO.items() if key != "bf16"} | {"bfloat16": {"enabled": True}}
    resolved = resolve_ds_config(given, recipe(), 2)
    assert resolved["bf16"] == {"enabled": True}
    assert "bfloat16" not in resolved
    with pytest.raises(UserError, match=r"^ds_config: bfloat16: the old name of the section bf16"):
        resolve({"bfloat16": {"enabled": True}, "bf16": {"enabled": True}})


def test_no_key_that_deepspeed_reads_counts_as_misspelt() -> None:
    """A dict that records the keys that DeepSpeed reads."""
    asked: set[str] = set()

    class Remembers(dict[str, Any]):
        def __contains__(self, key: object) -> bool:
            asked.add(str(key))
            return super().__contains__(key)

        def get(self, key: str, default: Any = None) -> Any:
            asked.add(key)
            return super().get(key, default)

    DeepSpeedConfig(Remembers(train_micro_batch_size_per_gpu=1))
    asked -= {*deepspeed_config._REMOVED_TOP_LEVEL_CONFIG_KEYS}
    assert len(asked) > 30
    assert asked <= set(DsConfig.model_fields)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            {"zero_optimization": {"overlap_com": True}},
            "unknown key 'zero_optimization.overlap_com', .* did you mean 'overlap_comm'",
        ),
        ({"zero_optimization": {"stage": 7}}, "zero_optimization.stage=7: must be 0, 1, 2"),
        ({"compression_training": {}}, "compression_training: DeepSpeed has removed it, and the recipe replaces it"),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, "DeepSpeed refuses it: bfloat16 and fp16 modes"),
    ],
)  # fmt: skip
def test_what_deepspeed_refuses_is_said_early_and_in_one_line(own: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve(own)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"FP16": {"enabled": True}}, "unknown key 'FP16', .* did you mean 'fp16'"),
        ({"my_own_key": 1}, "unknown key 'my_own_key', which DeepSpeed does not have: leave it out"),
        ({"amp": {}}, "DeepSpeed refuses it: NVIDIA Apex AMP integration has been removed"),
        ({"optimizer": {"type": "AdamW", "lr": 1}}, "unknown key 'optimizer.lr'"),
        ({"optimizer": {"type": 1}}, "optimizer.type=1: must be a valid string"),
        ({"optimizer": {"type": "Muon"}}, "^ds_config: optimizer.type='Muon' is not supported"),
        ({"optimizer": {"params": {"foo": 1}}}, "optimizer.params.foo: FusedAdam has no such setting"),
        ({"optimizer": {"params": {"amsgrad": True}}}, "optimizer.params.amsgrad: FusedAdam has no such"),
        (
            {"optimizer": {"type": "SGD", "params": {"momentun": 0.9}}},
            "optimizer.params.momentun: SGD has no such setting: did you mean 'momentum'",
        ),
        (
            {"optimizer": {"type": "SGD", "params": {"nesterov": True}}},
            "optimizer.params=.*nesterov.*: SGD refuses it: Nesterov momentum requires",
        ),
        (
            {"optimizer": {"params": {"max_grad_norm": 1}}},
            "optimizer.params.max_grad_norm: FusedAdam has no such setting",
        ),
        ({"optimizer": {"params": {"betas": [2, 3]}}}, r"optimizer.params.betas=\[2, 3\]: must be less than 1"),
        ({"optimizer": {"params": {"eps": -1}}}, "optimizer.params.eps=-1: must be greater than 0"),
        ({"optimizer": {"params": {"eps": 1e30}}}, "optimizer.params.eps=1e.30: must be less than or equal to 1"),
        ({"optimizer": {"params": {"weight_decay": "abc"}}}, "optimizer.params.weight_decay='abc': must be a"),
        ({"gradient_clipping": "cpu"}, "gradient_clipping='cpu': must be a valid number"),
        ({"gradient_clipping": -1}, "gradient_clipping=-1: must be greater than or equal to 0"),
        ({"steps_per_print": 0}, "steps_per_print=0: must be greater than or equal to 1"),
        ({"steps_per_print": True}, "steps_per_print=True: must be a valid number"),
        ({"prescale_gradients": "true"}, "prescale_gradients='true': must be a valid boolean"),
        ({"flops_profiler": {"profile_step": "5"}}, "flops_profiler.profile_step='5': must be a valid integer"),
        ({"activation_checkpointing": {"profil": 1}}, "unknown key 'activation_checkpointing.profil'"),
        ({"tensorboard": {"output_path": "a\0b"}}, "tensorboard.output_path=.*control character"),
        ({"zero_optimization": {"stage": "2"}}, "zero_optimization.stage='2': must be 0, 1, 2"),
        ({"zero_optimization": {"stage": True}}, "zero_optimization.stage=True: must be a number"),
        ({"zero_optimization": True}, "zero_optimization=True: must be a section with keys of its own"),
        ({"zero_optimization": {"zero_hpz_partition_size": "2"}}, "hpz_partition_size='2': must be a valid integer"),
        ({"zero_optimization": {"sub_group_size": 10**5000}}, "sub_group_size=.*: is too large a number"),
        ({"fp16": {"loss_scale": "auto", "hysteresis": 1.5}}, "fp16.hysteresis=1.5: must be a valid integer"),
        ({"data_types": {"grad_accum_dtype": "float"}}, "data_types.grad_accum_dtype='float': must be 'fp32'"),
    ],
)  # fmt: skip
def test_a_key_or_value_that_deepspeed_would_misread_is_refused(own: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve(own)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "own",
    [
        {"zero_optimization": {"stage": 2, "reduce_bucket_size": 5e8, "stage3_max_live_parameters": 1e9}},
        {"steps_per_print": float("inf")},  # of Accelerate
        {"zero_optimization": {"stage": 3, "offload_param": {"device": "none", "nvme_path": None}}},
        {"optimizer": {"type": "AdamW", "params": {"torch_adam": True, "fused": True, "amsgrad": True}}},
        {"optimizer": {"type": "Adam", "params": {"adam_w_mode": False, "bias_correction": True}}},
        {"activation_checkpointing": {"partition_activations": False, "number_checkpoints": None}},
        {"fp16": {"enabled": True, "loss_scale": 0, "initial_scale_power": 16, "min_loss_scale": 1}},
        {"checkpoint": {"tag_validation": "Warn", "parallel_write": {"pipeline_stage": False}}},
    ],
)
def test_a_usual_setting_passes(own: dict[str, Any]) -> None:
    resolved = resolve(own)
    assert all(resolved[key] for key in own)


# ---- what cannot be pruned under

REFUSED = [
    ("zero_optimization.offload_optimizer.device", "nvme", "use 'cpu'"),
    ("zero_optimization.offload_param.device", "nvme", "use 'cpu'"),
    ("zero_optimization.mics_shard_size", 2, "MiCS"),
    ("zero_optimization.zero_hpz_partition_size", 2, "hpZ"),
    ("zero_optimization.zero_quantized_weights", True, r"ZeRO\+\+"),
    ("zero_optimization.zero_quantized_gradients", True, r"ZeRO\+\+"),
    ("zero_optimization.round_robin_gradients", True, "leave it out"),
    ("zero_optimization.elastic_checkpoint", True, "cannot load its own checkpoints"),
    ("zero_optimization.load_from_fp32_weights", False, "round the master weights"),
    ("zero_optimization.zenflow", {"topk_ratio": 0.1}, "ZenFlow"),
    ("hybrid_engine.enabled", True, "another engine"),
    ("weight_quantization", {"enabled": True}, "quantized weights"),
    ("data_efficiency.enabled", True, "other examples"),
    ("autotuning.enabled", True, "ends the process"),
    # All values that DeepSpeed might read as true.
    ("zero_optimization.zero_hpz_partition_size", "2", "hpZ"),
    ("zero_optimization.zero_quantized_weights", "true", r"ZeRO\+\+"),
    ("zero_optimization.round_robin_gradients", "on", "leave it out"),
    ("zero_optimization.offload_optimizer.super_offload", "yes", "SuperOffload"),
    ("zero_optimization.offload_optimizer.ratio", "0.5", "Twin-Flow"),
    ("tensor_parallel.autotp_size", "2", "tensor parallelism"),
    ("sequence_parallel_size", "2", "sequence parallelism"),
    ("compile.deepcompile", "1", "DeepCompile"),
    ("torch_autocast.enabled", "true", "torch autocast"),
    ("torch_autocast.enabled", "false", "torch autocast"),  # true for DeepSpeed, like every text
    ("optimizer.type", 1, "not element-wise or unknown"),
    ("zero_optimization.offload_optimizer.super_offload", True, "SuperOffload"),
    ("zero_optimization.offload_optimizer.ratio", 0.5, "Twin-Flow"),
    ("tensor_parallel.autotp_size", 2, "tensor parallelism"),
    ("expert_parallel.enabled", True, "expert parallelism"),
    ("sequence_parallel_size", 2, "sequence parallelism"),
    ("pipeline.stages", 2, "pipeline parallelism"),
    ("compile.deepcompile", True, "DeepCompile"),
    ("managed_gradient_accumulation", False, "inside step"),
    ("bf16.bf16_master_weights_and_grads", True, "master weights below fp32"),
    ("bf16.bf16_optimizer_states", True, "optimizer states below fp32"),
    ("fp16.fp16_master_weights_and_grads", True, "master weights below fp32"),
    ("torch_autocast.enabled", True, "torch autocast"),
    ("optimizer.type", "OneBitAdam", "not element-wise or unknown; use one of .*AdamW"),
    ("optimizer.type", "ZeroOneAdam", "not element-wise or unknown"),
    ("optimizer.type", "OneBitLamb", "not element-wise or unknown"),
    ("optimizer.type", "Muon", "not element-wise or unknown"),
    ("optimizer.type", "LBFGS", "not element-wise or unknown"),
    ("optimizer.type", "Lion", "DeepSpeed's Lion moves weights of zero; use AdamW"),
    ("optimizer.type", "Adamax", "not element-wise or unknown"),  # its state of pruned weights is not zero
    ("optimizer.type", "Adagrad", "not element-wise or unknown"),  # ZeRO makes another optimizer of it
    ("optimizer.type", "sgd", "not element-wise or unknown"),  # a module of torch.optim
]


@pytest.mark.parametrize(
    ("key", "value", "why"), REFUSED, ids=[f"{key}={value}" for key, value, _ in REFUSED]
)
def test_an_unsupported_feature_is_refused_by_name(key: str, value: Any, why: str) -> None:
    with pytest.raises(
        UserError, match=f"^ds_config: {key}={value!r} is not supported .*{why}".replace("{", r"\{")
    ):
        check_ds_config(nested(key, value))


@pytest.mark.parametrize("optimizer", ["SGD", "Lion", "RMSprop"])
def test_a_method_is_refused_with_an_optimizer_that_lacks_its_state(optimizer: str) -> None:
    with pytest.raises(
        UserError, match=rf"^pruning.method: 'fisher' reads exp_avg_sq .* {optimizer} does not .* AdamW"
    ):
        check_optimizer_state(optimizer, "fisher")
    check_optimizer_state(optimizer, "magnitude")


@pytest.mark.parametrize(
    "optimizer", ["AdamW", "Adam", "FusedAdam", "DeepSpeedCPUAdam", "NAdam", "RAdam", "FusedLamb"]
)
def test_a_method_is_accepted_with_an_optimizer_that_has_its_state(optimizer: str) -> None:
    check_optimizer_state(optimizer, "fisher")


def test_every_refused_setting_has_its_test() -> None:
    assert {key for key, *_ in _REFUSED} <= {key for key, *_ in REFUSED}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("zero_optimization.offload_optimizer.device", "cpu"),
        ("zero_optimization.offload_optimizer.ratio", 1.0),
        ("zero_optimization.zero_hpz_partition_size", 1),
        ("tensor_parallel.autotp_size", 0),
        ("sequence_parallel_size", 1),
        ("pipeline.stages", 1),
        ("managed_gradient_accumulation", True),
        ("torch_autocast.enabled", False),
        ("compile.deepcompile", False),
        *(("optimizer.type", name) for name in sorted(OPTIMIZERS_OF_DEEPSPEED | OPTIMIZERS_OF_TORCH)),
    ],
)
def test_the_harmless_value_of_a_refused_setting_passes(key: str, value: Any) -> None:
    check_ds_config(nested(key, value))


def test_all_unsupported_features_are_said_at_once() -> None:
    both = {"zero_optimization": {"zero_quantized_weights": True, "offload_param": {"device": "nvme"}}}
    with pytest.raises(UserError, match=r"^ds_config: .*offload_param.*; .*zero_quantized_weights"):
        check_ds_config(both)


SECTIONS: dict[str, Any] = {
    "zero_optimization": DeepSpeedZeroConfig,
    "zero_optimization.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig,
    "zero_optimization.offload_param": DeepSpeedZeroOffloadParamConfig,
    "bf16": DeepSpeedBF16Config,
    "fp16": DeepSpeedFP16Config,
    "compile": CompileConfig,
    "tensor_parallel": TPTrainingConfig,
}


@pytest.mark.parametrize("key", sorted({key for key, *_ in REFUSED}))
def test_deepspeed_has_every_refused_key_under_this_name(key: str) -> None:
    section, _, name = key.rpartition(".")
    if section in SECTIONS:
        known = set(SECTIONS[section].model_fields) | set(deepspeed_config._REMOVED_ZERO_CONFIG_KEYS)
        assert name in known
        return
    source = Path(deepspeed_config.__file__).read_text()
    if section == "expert_parallel":  # a parser by hand
        source += (
            Path(deepspeed_config.__file__).parents[1].joinpath("module_inject/auto_ep_config.py").read_text()
        )
    modules = (constants, data_constants, autotuning_constants)
    named = {value for module in modules for value in map(str, vars(module).values())}
    for part in key.split("."):
        assert part in named or f'"{part}"' in source or f"'{part}'" in source


# ---- files


def test_a_config_is_read_by_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ds_configs"
    folder.mkdir()
    (folder / "mine.json").write_text('{"train_batch_size": 3}')
    monkeypatch.chdir(tmp_path)
    assert load_ds_config("mine") == load_ds_config("ds_configs/mine.json") == {"train_batch_size": 3}
    (folder / "zero2.json").write_text('{"train_batch_size": 4}')
    assert load_ds_config("zero2") == {"train_batch_size": 4}, "one's own wins over the shipped one"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n "train_batch_size": 1,\n}', r"bad.json: line 2 is not JSON \(Illegal trailing comma|line 3 is not JSON"),
        ("[1]", "bad.json: holds a list: give a JSON object"),
        ("", "bad.json: line 1 is not JSON"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_ds_config(str(path))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match=r"bad.json: is not text"):
        load_ds_config(str(path))


def test_a_missing_file_lists_the_shipped_ones() -> None:
    with pytest.raises(UserError, match=r"deepspeed: no file 'zero5': .* one of offload, zero0, .* zero3"):
        load_ds_config("zero5")


def test_the_resolved_config_is_json() -> None:
    assert json.loads(json.dumps(resolve())) == resolve()


def test_a_precision_that_the_device_does_not_have_is_refused() -> None:
    config = resolve({"fp16": {"enabled": "auto"}}, recipe(precision="fp16"))
    with pytest.raises(UserError, match=r"^precision: fp16: .* cpu: set precision=fp32, or train on a GPU$"):
        check_device(config)
    with fp16_allowed():
        check_device(config)
    check_device(resolve({"bf16": {"enabled": "auto"}}, recipe(precision="bf16")))


def test_an_accelerator_without_a_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    monkeypatch.setattr(real_accelerator, "ds_accelerator", CUDA_Accelerator())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"^DS_ACCELERATOR='cuda': torch finds no such device: unset it"):
        check_device(resolve())

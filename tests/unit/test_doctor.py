import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam
from deepspeed.ops.op_builder.builder import OpBuilder
from deepspeed.ops.op_builder.fused_adam import FusedAdamBuilder
from packaging.requirements import Requirement
from torch.utils import cpp_extension
from torch.utils.file_baton import FileBaton

from dsprune.commands import doctor
from dsprune.commands.doctor import Finding
from dsprune.errors import CheckFailedError, UserError
from dsprune.zero.ops import (
    build_failure,
    build_ops,
    extensions_folder,
    find_stale_locks,
    needed_ops,
    prepare_builds,
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of extensions; those that earlier tests in this process have loaded do not count."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(OpBuilder, "_loaded_ops", {})
    return tmp_path


@pytest.fixture
def lock(cache: Path) -> Path:
    """The lock of a process that was killed while it compiled."""
    path = cache / "cpu_adam" / "lock"
    path.parent.mkdir()
    path.touch()
    return path


@pytest.fixture(autouse=True)
def old_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch before 2.14, whose builds wait for a lock file to be removed."""
    monkeypatch.setattr(cpp_extension, "FileBaton", FileBaton, raising=False)


@pytest.fixture
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_a_lock_that_nobody_has_open_is_stale(lock: Path) -> None:
    assert find_stale_locks() == [lock]


def test_a_lock_is_not_stale_while_a_process_builds_and_is_once_that_process_is_killed(cache: Path) -> None:
    path = cache / "op" / "lock"
    path.parent.mkdir()
    hold = (
        "import sys, time; from torch.utils.file_baton import FileBaton;"
        "assert FileBaton(sys.argv[1]).try_acquire(); print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(path)], stdout=subprocess.PIPE) as builder:
        assert builder.stdout.readline() == b"held\n"
        assert find_stale_locks() == []
        builder.kill()
    assert find_stale_locks() == [path]


def test_a_torch_whose_builds_do_not_wait_for_the_file_has_no_stale_locks(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(cpp_extension, "FileBaton")
    assert find_stale_locks() == []


def test_without_a_cache_there_are_no_locks(cache: Path) -> None:
    cache.rmdir()
    assert find_stale_locks() == []


def test_a_stale_lock_fails_the_check_with_the_command_that_removes_it(lock: Path) -> None:
    finding = doctor.check_build_locks()
    assert finding.level == "fail"
    assert finding.message.endswith(f"rm {lock}")


def test_a_start_refuses_to_wait_for_a_stale_lock(lock: Path) -> None:
    prepare_builds()
    with pytest.raises(UserError, match=f"{lock}: left by a build that was killed.*remove the file"):
        FileBaton(str(lock)).wait()


def test_a_start_waits_for_a_process_that_builds(cache: Path) -> None:
    prepare_builds()
    lock = str(cache / "lock")
    builder = FileBaton(lock)
    assert builder.try_acquire()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(FileBaton(lock).wait)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)
        builder.release()
        waiting.result(timeout=30)


def test_a_build_refuses_to_wait_for_a_stale_lock(lock: Path) -> None:
    with pytest.raises(CheckFailedError, match=f"{lock}: left by a build that was killed: remove it"):
        build_ops()
    assert doctor.check_ops(build=True).level == "fail"


def test_a_build_without_a_compiler_names_the_extension(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(cache / "no-such-compiler"))
    first = needed_ops()[0].name
    with pytest.raises(CheckFailedError, match=f"{first}: does not compile .*ds_report"):
        build_ops()


@pytest.mark.parametrize("architectures", ["9.0a", "8.0;9.0a+PTX", "Hopper"])
def test_architectures_that_deepspeed_does_not_read_are_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch, architectures: str
) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", architectures)
    with pytest.raises(ValueError, match="invalid literal for int") as raised:
        FusedAdamBuilder().load(verbose=False)
    named = rf"TORCH_CUDA_ARCH_LIST: value '{re.escape(architectures)}': .* unset the variable"
    assert re.search(rf"extension fused_adam: does not compile .*{named}", str(build_failure(raised.value)))
    finding = doctor.check_architectures()
    assert finding.level == "warn"
    assert re.match(named, finding.message)


@pytest.mark.parametrize("architectures", ["", "9.0", "8.0 9.0+PTX", "8.6;10.0"])
def test_architectures_that_deepspeed_reads_pass(monkeypatch: pytest.MonkeyPatch, architectures: str) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", architectures)
    assert doctor.check_architectures().level == "ok"


def test_the_error_of_a_build_is_found_behind_that_of_an_optimizer(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(cache / "no-such-compiler"))
    with pytest.raises(RuntimeError, match="failed to build/load") as raised:
        DeepSpeedCPUAdam([torch.nn.Parameter(torch.zeros(2))])
    assert re.match(
        "DeepSpeed's extension cpu_adam: does not compile .*ds_report", str(build_failure(raised.value))
    )


def test_another_error_is_no_failed_build() -> None:
    with pytest.raises(ValueError, match="int") as raised:
        int("0a")
    assert build_failure(raised.value) is None


def test_extensions_that_are_not_built_are_named_with_their_use(cache: Path) -> None:
    finding = doctor.check_ops(build=False)
    assert finding.level == "ok"
    assert "cpu_adam not built: optimizer offload compiles it" in finding.message
    assert "dsprune doctor --build-ops" in finding.message


def test_extensions_that_lie_in_the_cache_are_found(cache: Path) -> None:
    for builder in needed_ops():
        library = cache / builder.name / f"{builder.name}.so"
        library.parent.mkdir()
        library.touch()
    assert doctor.check_ops(build=False).level == "ok"


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, without TORCH_EXTENSIONS_DIR; the test may change PATH."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "")
    monkeypatch.setenv("PATH", "/usr/bin")
    return tmp_path / "dsprune" / "extensions"


def test_extensions_go_to_a_folder_of_the_environment(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = extensions_folder()
    assert here.parent == own_folder
    assert extensions_folder() == here
    folders = {here}
    for change in ("sys.prefix", "sys.version", "torch.__version__", "deepspeed.__version__"):
        with monkeypatch.context() as patch:
            patch.setattr(change, "another")
            folders.add(extensions_folder())
    monkeypatch.setattr("dsprune.zero.ops.cpu_type", lambda: "another")
    folders.add(extensions_folder())
    assert len(folders) == 6


def test_a_user_without_a_home_has_to_set_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "TORCH_EXTENSIONS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(UserError, match="HOME: not set, and user 54321 has no home: set HOME"):
        extensions_folder()


def test_a_folder_that_the_user_chose_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    prepare_builds()
    assert extensions_folder() == cache
    assert os.environ["TORCH_EXTENSIONS_DIR"] == str(cache)


def test_torch_builds_in_that_folder_with_the_ninja_of_the_environment(own_folder: Path) -> None:
    prepare_builds()
    prepare_builds()
    build = Path(cpp_extension._get_build_directory("op", verbose=False))
    assert build == extensions_folder() / "op"
    assert build.is_relative_to(own_folder)
    assert os.environ["PATH"] == f"{sysconfig.get_path('scripts')}:/usr/bin"
    assert shutil.which("ninja") == str(Path(sysconfig.get_path("scripts"), "ninja"))


@pytest.mark.parametrize(
    ("requirement", "problem"),
    [
        ("torch>=2", None),
        ("torch<1", f"torch {version('torch')} is installed, not supported: pip install 'torch<1'"),
        ("no-such-package>=3", "no-such-package is missing: pip install 'no-such-package>=3'"),
    ],
)
def test_a_package_is_compared_with_its_declared_range(requirement: str, problem: str | None) -> None:
    assert doctor.package_problem(Requirement(requirement)) == problem


def test_a_missing_compiler_is_named(empty_path: Path) -> None:
    finding = doctor.check_compiler()
    assert finding.level == "warn"
    assert "ninja not on PATH, so optimizer offload does not start" in finding.message


def test_no_slurm_is_fine_and_half_of_it_is_not(empty_path: Path) -> None:
    assert doctor.check_slurm().level == "ok"
    write_command(empty_path / "sbatch", "")
    assert doctor.check_slurm().message == "srun, scontrol not on PATH: load the site's slurm module"


def test_slurm_tells_its_version(empty_path: Path) -> None:
    for command in ("sbatch", "srun", "scontrol"):
        write_command(empty_path / command, "echo slurm 24.11.5")
    assert doctor.check_slurm() == Finding("slurm", "ok", "slurm 24.11.5")


@pytest.mark.parametrize("broken", ["sbatch", "srun", "scontrol"])
def test_a_slurm_command_that_fails_is_a_warning_with_the_way_out(empty_path: Path, broken: str) -> None:
    for command in ("sbatch", "srun", "scontrol"):
        write_command(empty_path / command, "echo slurm 24.11.5")
    write_command(empty_path / broken, "echo error: no configuration >&2; exit 1")
    finding = doctor.check_slurm()
    assert finding.level == "warn"
    assert f"{broken} --version: exit code 1 (error: no configuration)" in finding.message
    assert "load the site's slurm module, or repair slurm.conf" in finding.message


def test_a_slurm_command_without_an_answer_is_a_warning(empty_path: Path) -> None:
    for command in ("sbatch", "srun", "scontrol"):
        write_command(empty_path / command, "")
    finding = doctor.check_slurm()
    assert (finding.level, "sbatch --version: exit code 0 (no message)" in finding.message) == ("warn", True)


def test_the_wandb_key_is_found_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert "no key for wandb.example.org" in doctor.check_wandb().message
    (tmp_path / "netrc").write_text("machine wandb.example.org login user password from-netrc\n")
    assert "with a key for wandb.example.org" in doctor.check_wandb().message
    monkeypatch.setenv("WANDB_API_KEY", "from-environment")
    assert "from-" not in doctor.check_wandb().message


def test_ranks_on_cpu_are_warned_of_unbounded_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert doctor.check_threads().level == "ok"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert doctor.check_threads().level == ("ok" if torch.cuda.is_available() else "warn")


def write_command(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)

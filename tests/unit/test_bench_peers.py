import sys
from types import ModuleType

import pytest
from rich.console import Console

from tests.scripts import SCRIPTS, load, table_rows


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return load("bench_peers")


def cells(script: ModuleType, kinds: list[type], reasons: dict[str, str]) -> list[list[str]]:
    console = Console(width=400)
    with console.capture() as capture:
        console.print(script.comparison(kinds, script.encoder(2, 20), 1, reasons))
    return table_rows(capture.get())


def test_the_libraries_of_torch_prune_beside_dsprune(script: ModuleType) -> None:
    from bench import peers

    kinds = [peers.Dsprune, peers.TorchPrune, peers.DspruneUniform, peers.TorchAo]
    rows = cells(script, kinds, {})
    assert [row[2] for row in rows] == ["global", "global", "uniform", "uniform"]
    held, off_target, regrown = zip(*(row[-3:] for row in rows), strict=True)
    assert held == ("0.125", "8.000", "0.125", "4.000")
    assert off_target == ("+0", "+0", "+0", "+0")
    assert regrown == ("0%", "100%", "0%", "100%")


def test_a_missing_peer_is_named_with_its_reason(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import peers

    for name in ("nncf", "torchao"):
        monkeypatch.setitem(sys.modules, name, None)
    installed, other = cells(script, [peers.Nncf, peers.Torchao], {"nncf": "no network", "torchao": ""})
    assert installed[:3] == ["nncf.prune", "nncf: not measured: no network", "global"]
    assert "torchao: not measured: No module named 'torchao" in other[1]


@pytest.mark.parametrize(
    ("command", "last"), [("print('one'); exit('two')", "two"), ("exit(1)", "no message"), ("", "")]
)
def test_the_last_line_of_a_failure_is_its_reason(script: ModuleType, command: str, last: str) -> None:
    assert script.failure(sys.executable, "-c", command) == last

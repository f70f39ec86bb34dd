import pytest

from dsprune.errors import CheckFailedError
from dsprune.ranks.failures import probe_ranks


def test_two_ranks_start_and_agree() -> None:
    probe_ranks(2, timeout=120)


def test_ranks_that_do_not_answer_in_time_are_reported_and_ended() -> None:
    with pytest.raises(CheckFailedError, match=r"2 gloo ranks: no answer within 0\.01 s"):
        probe_ranks(2, timeout=0.01)


def test_a_rank_that_dies_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-interface")
    with pytest.raises(CheckFailedError, match="2 gloo ranks: one died"):
        probe_ranks(2, timeout=60)

"""The variables by which a launcher gives a process its place."""

import pytest
from torch.distributed import DistNetworkError

from trainer import ConfigError
from trainer.distributed import launch
from trainer.distributed.environment import UNSHARED_STORE, Environment

NAMES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "GROUP_WORLD_SIZE",
    "TORCHELASTIC_MAX_RESTARTS",
    UNSHARED_STORE,
)
TWO = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
HOSTS = {**TWO, "GROUP_WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "3"}


@pytest.fixture
def given(monkeypatch):
    """Return a function that sets these variables, and no other of a launcher."""

    def set_all(variables):
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


def test_the_place_is_read(given):
    given({})
    assert (Environment.read().rank, Environment.read().size) == (0, 1)
    given(TWO)
    assert (Environment.read().rank, Environment.read().size) == (1, 2)
    given({"RANK": "0", "WORLD_SIZE": "1"})
    assert Environment.read().size == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"RANK": "2"}, "RANK: must be < WORLD_SIZE, which is 2; got 2"),
        ({"RANK": "one"}, "RANK: must be a number >= 0; got 'one'"),
        ({"RANK": ""}, "RANK: is not set"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE: must be a number >= 0; got '-2'"),
        ({"WORLD_SIZE": "0"}, "RANK: must be < WORLD_SIZE"),
        ({"LOCAL_RANK": "1.0"}, "LOCAL_RANK: must be a number >= 0; got '1.0'"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR: is not set"),
        ({"MASTER_PORT": ""}, "MASTER_PORT: is not set"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT: must be <= 65535; got 65536"),
        ({"MASTER_PORT": "a port"}, "MASTER_PORT: must be a number"),
    ],
)
def test_a_wrong_variable_is_named(given, changed, message):
    given(TWO | changed)
    with pytest.raises(ConfigError) as raised:
        Environment.read()
    assert message in str(raised.value)


def test_one_of_two_variables_is_refused(given):
    given({"WORLD_SIZE": "2"})
    with pytest.raises(ConfigError, match="RANK: is not set"):
        Environment.read()


def test_restarts_on_several_hosts_need_a_store_an_attempt(given):
    given(HOSTS)
    with pytest.raises(ConfigError, match=f"{UNSHARED_STORE}: must be 1 .* on 2 hosts"):
        Environment.read()
    for changed in ({UNSHARED_STORE: "1"}, {"TORCHELASTIC_MAX_RESTARTS": "0"}, {"GROUP_WORLD_SIZE": "1"}):
        given(HOSTS | changed)
        assert Environment.read().size == 2


def test_a_process_that_reaches_no_other_prints_its_message_itself(given, monkeypatch):
    def refuse(*address, **options):
        raise DistNetworkError("connection refused")

    monkeypatch.setattr(launch, "rendezvous", refuse)
    monkeypatch.setattr(launch, "_joined", 0)
    given(TWO)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert not launch.report_early(ConfigError("a mistake"))

"""Whatever is wrong in a config, it is refused with a message, or it is a config that can be planned.

INNERSTEP_CONFIG_MUTATIONS is how many configs there are; where it is set, time and memory are bounded too.
"""

import io
import os
import resource
import time

import config_mutations
import pytest
from rich.console import Console

from trainer import ConfigError, load_config
from trainer.config.overrides import parse_overrides
from trainer.config.yaml_values import read_yaml, write_yaml
from trainer.offline_trainer import OfflineTrainer

MUTATIONS = int(os.environ.get("INNERSTEP_CONFIG_MUTATIONS", "300"))
BOUNDED = "INNERSTEP_CONFIG_MUTATIONS" in os.environ
BLOCKS = 10
QUIET = Console(file=io.StringIO())
GIBIBYTE = 2**30


@pytest.fixture
def bounded_memory():
    """Let no config of the test, whose sizes may be anything, take more than 2 GiB: torch then refuses."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * GIBIBYTE, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def planned(source, arguments):
    """Return the config as it would be written, of one that can be planned; else the message."""
    try:
        config = load_config(source, parse_overrides(arguments))
        OfflineTrainer(config, QUIET).plan()
    except ConfigError as error:
        return None, str(error)
    return config, ""


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "somebody")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", config_mutations.SOURCES)
def test_the_configs_without_mistakes_are_planned(name):
    assert planned(config_mutations.SOURCES[name], [])[1] == ""


@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_mutated_config_is_refused_or_planned(tmp_path, bounded_memory, block):
    for seed in range(block, MUTATIONS, BLOCKS):
        source, arguments = config_mutations.mutated(seed, tmp_path)
        peak, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        try:
            config, message = planned(source, arguments)
        except BaseException as error:
            error.add_note(f"config number {seed}: {str(source)[:2000]} {arguments}")
            raise
        if BOUNDED:
            assert time.process_time() - begun < 2, seed
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 500_000, seed
        if config is None:
            assert message.strip(), seed
            assert len(message) < 10_000, seed
            assert "Traceback" not in message, seed
        else:
            written = write_yaml(config.model_dump(mode="json"))
            assert write_yaml(load_config(read_yaml(written)).model_dump(mode="json")) == written, seed

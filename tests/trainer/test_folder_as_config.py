"""A folder in place of a config: the message names the config in it."""

import pytest

from trainer import ConfigError
from trainer.config.yaml_file import read_config_file


def test_the_folder_of_a_run_or_project_is_refused_with_the_config_in_it(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(ConfigError, match=r"config\.yaml is one. `innerstep resume RUN` continues a run"):
        read_config_file(tmp_path)


def test_any_other_folder_is_refused_as_unreadable(tmp_path):
    with pytest.raises(ConfigError, match="Give the path of a YAML or JSON file"):
        read_config_file(tmp_path)

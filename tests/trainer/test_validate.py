"""`innerstep validate`, and the commands on keys with a config's plugins."""

import pytest
from broken_configs import GOOD
from sample_files import _forgets, _registers  # noqa: F401  # fixtures
from sample_traces import TRACE

PLUGIN = """
from optimizer import SCHEDULE_REGISTRY, Schedule
from trainer import DATASET_REGISTRY, ENVIRONMENT_REGISTRY, Environment, SINK_REGISTRY


@SCHEDULE_REGISTRY.register("sawtooth")
class Sawtooth(Schedule):
    '''Falls to 0 in each period.'''

    absolute = False
    period: int = 10
    '''Updates in a tooth.'''

    def lr_at(self, update):
        return 1 - (update % self.period) / self.period


@SINK_REGISTRY.register("shouting")
class Shouting:
    '''Prints lines in capitals.'''

    def __init__(self, run_dir, step): ...
    def write(self, line): ...
    def close(self): ...


@ENVIRONMENT_REGISTRY.register("maze")
class Maze(Environment):
    '''A maze of walls.'''

    def __init__(self, width: int = 5) -> None: ...
    def episodes(self, *arguments, **options):
        return []
"""


@pytest.fixture
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(GOOD)
    (tmp_path / "own_teeth.py").write_text(PLUGIN)
    (tmp_path / "own.yaml").write_text("plugins: [own_teeth]\n")
    (tmp_path / "outer.yaml").write_text("extends: own.yaml\n")


pytestmark = pytest.mark.usefixtures("_folder", "_forgets", "_registers")


def test_a_valid_config_is_named_and_no_data_are_loaded(cli, tmp_path):
    assert cli("validate", "c.yaml") == (0, "c.yaml: valid\n")
    assert not (tmp_path / TRACE).exists()


def test_several_files_are_one_config_unless_each_is_asked_for(cli, tmp_path):
    (tmp_path / "fast.yaml").write_text("train: {total_steps: 5}\n")
    assert cli("validate", "c.yaml", "fast.yaml") == (0, "c.yaml, fast.yaml: valid\n")
    code, printed = cli("validate", "--each", "c.yaml", "fast.yaml")
    assert code == 2
    assert "c.yaml: valid" in printed
    assert "fast.yaml:1:1: train.run_dir: required" in printed
    assert "fast.yaml: valid" not in printed


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--train.device=gpu", "train.device: no such device"),
        ("--train.log=[jsonl,jsnol]", "train.log.1: unknown metrics sink 'jsnol'"),
        ("--model.component_optims.head.params.lr=-1", "head.params.lr: must be at least 0"),
        (
            "--model.component_optims.head.params.schedule={type: warmup_cosine_decay, warmup_steps: 20}",
            "head.params.schedule",
        ),
    ],
)
def test_mistakes_are_reported(override, message, cli):
    code, printed = cli("validate", "c.yaml", override)
    assert code == 2
    assert message in printed
    assert "Traceback" not in printed


BEST = "--train.keep_best.monitor="
STOPPING = "--train.early_stopping={monitor: val_size, patience: 3}"
EPISODES = "--train.evaluation={type: maze, every: 2}"
NEVER_IN_TIME = [
    ([f"{BEST}loss"], ["train.keep_best.monitor: waits for 'loss'", "did you mean 'val_loss'?", "train_"]),
    ([f"{BEST}val_size"], ["keep_best.monitor: waits for 'val_size'", "Set train.eval_every to less than the "]),
    ([f"{BEST}val_size", "--train.eval_every=1000"], ["Set train.eval_every to less than the "]),
    ([STOPPING], ["train.early_stopping.monitor: waits for 'val_size'", "Set train.eval_every"]),
    ([f"{BEST}val_loss", EPISODES], ["Set train.eval_every to less"]),
    ([f"{BEST}val_size", "--train.evaluation.type=maze"], ["Set train.eval_every or train.evaluation.every to less"]),
    ([f"{BEST}size", STOPPING], ["keep_best.monitor: waits for 'size'", "early_stopping.monitor: waits for"]),
]


@pytest.mark.parametrize(("overrides", "messages"), NEVER_IN_TIME)
def test_a_metric_that_cannot_come_in_time_is_refused(overrides, messages, cli):
    code, printed = cli("validate", "c.yaml", "--plugins=[own_teeth]", *overrides)
    assert code == 2
    assert [message for message in messages if message not in printed] == [], printed


@pytest.mark.parametrize(
    "overrides",
    [[f"{BEST}val_size", "--train.eval_every=1"], [f"{BEST}train_loss", EPISODES], [f"{BEST}val_return", EPISODES]],
)
def test_a_metric_that_may_come_in_time_is_valid(overrides, cli):
    assert cli("validate", "c.yaml", "--plugins=[own_teeth]", *overrides)[0] == 0


def test_all_mistakes_are_reported_at_once(cli):
    _, printed = cli("validate", "c.yaml", "--train.device=gpu", "--train.log=[jsonl,jsnol]")
    assert "train.device" in printed
    assert "train.log.1" in printed


def test_a_device_of_another_machine_is_valid(cli):
    assert cli("validate", "c.yaml", "--train.device=cuda:7")[0] == 0


def test_lengths_in_epochs_are_unknown_without_data(cli):
    schedule = "--model.component_optims.head.params.schedule={type: cosine, num_warmup_steps: 1ep}"
    assert cli("validate", "c.yaml", schedule)[0] == 0


@pytest.mark.parametrize("config", ["own.yaml", "outer.yaml"])
def test_own_keys_are_listed_described_and_drawn(config, cli):
    code, printed = cli("list", "--config", config)
    assert code == 0
    for name, meaning in {"sawtooth": "Falls to 0", "shouting": "Prints lines", "maze": "A maze of walls"}.items():
        assert f"{name} " in printed
        assert meaning in printed
    _, printed = cli("describe", "sawtooth", "--config", config)
    assert "period: integer, default 10" in printed
    assert "Updates in a tooth." in printed
    assert "width: integer, default 5" in cli("describe", "maze", "--config", config)[1]
    assert "Prints lines in capitals." in cli("describe", "shouting", "--config", config)[1]
    code, printed = cli("plot", "sawtooth", "--config", config, "--period=20")
    assert code == 0
    assert "sawtooth" in printed


def test_plot_draws_one_key(cli):
    code, printed = cli("plot", "cosine", "linear")
    assert code == 2
    assert "one key is drawn at a time" in printed

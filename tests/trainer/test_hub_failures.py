"""A hub that refuses, fails, cuts a file short or is not there: each is reported in words, with what to do."""

import socket
import sys

import pytest
import yaml
from conftest import needs
from sample_hub import LIBRARY_WARNS, _hub, small, trained, use  # noqa: F401  # a fixture
from sample_lerobot_data import write_states

import trainer
from trainer import ConfigError
from trainer.config.entries import DataConfig
from trainer.errors import OutputError

pytestmark = [needs("huggingface_hub"), LIBRARY_WARNS]
NAME = "someone/two-parts"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def config(tmp_path):
    """Return the config of a small run as the bytes of its file."""
    return yaml.safe_dump(small(tmp_path / "run")).encode()


def free_port():
    """Return a port on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


FAILURES = {
    401: "nobody is logged in, or the token is not valid. Log in with `hf auth login`, or set HF_TOKEN",
    403: "this account, or its token, has no permission (as the test wants it). Use a token that may write there",
    404: "the server answers with 404",
    500: "the server fails with 500 (as the test wants it). Try again later",
}


@pytest.mark.parametrize("status", FAILURES)
@pytest.mark.parametrize("request_", ["POST /api/repos/create", "POST /api/models/someone/two-parts/commit"])
def test_a_push_that_is_refused_is_reported_and_writes_nothing(hub, run, cli, status, request_):
    hub.fails = {request_: status}
    code, printed = cli("push", run, NAME)
    assert code == 1
    assert f"error: push: nothing was written to 'someone/two-parts': {FAILURES[status]}" in printed
    assert ("models", NAME) not in hub.repositories or hub.files(NAME) == {}


def test_a_push_without_a_login_names_the_command(hub, run, cli, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    code, printed = cli("push", run, NAME)
    assert code == 1
    assert FAILURES[401] in printed


def test_an_upload_that_fails_is_reported_by_its_reason(hub, run):
    hub.fails = {"PUT /large": 403}
    with pytest.raises(OutputError, match=r"nothing was written to .*: this account, or its token, has no permission"):
        trainer.push_to_hub(run, NAME)
    assert hub.files(NAME) == {}


def test_a_push_that_cannot_begin_asks_the_hub_nothing(hub, run, cli, tmp_path):
    mistakes = {
        (run, "two-parts"): "repository: must be ORG/NAME, such as someone/pusht; got 'two-parts'",
        (tmp_path, NAME): "there is nothing to push here",
        (run, NAME, "--component", "frist"): "has no component 'frist'; did you mean 'first'?",
        (run, NAME, "--checkpoint", tmp_path): "there is no checkpoint here",
        (run / "config.yaml", NAME, "--component", "first"): "--component: belongs to a run",
    }
    for arguments, message in mistakes.items():
        code, printed = cli("push", *arguments)
        assert code == 2
        assert message in printed
    assert hub.seen == []


def test_a_name_that_the_library_refuses_is_a_mistake(hub, run, cli):
    code, printed = cli("push", run, "someone/two..parts")
    assert code == 2
    assert "error: repository: " in printed


def test_a_damaged_checkpoint_is_not_pushed(hub, tmp_path):
    run = trained(tmp_path)
    (run / "checkpoints/step_00000004/trainer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"damaged checkpoint: .*trainer\.json: has 2 bytes"):
        trainer.push_to_hub(run, NAME)
    assert hub.seen == []


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ({}, "there is no such repository, or this account may not see it. Check the name"),
        ({"/api/models": 401}, "nobody is logged in, or the token is not valid. Log in with `hf auth login`"),
        (
            {"/api/models": 500},
            "hub cannot be reached (the server fails with 500 (as the test wants it). Try again later)",
        ),
    ],
)
def test_a_repository_that_cannot_be_loaded_is_reported(hub, cli, fails, message):
    hub.fails = fails
    code, printed = cli("plan", f"hf://{NAME}")
    assert code == 2
    assert f"config: '{NAME}' " in printed
    assert message in " ".join(printed.split())


def test_a_private_repository_needs_a_login(hub, config, monkeypatch):
    hub.add(NAME, {"config.yaml": config}, private=True)
    assert trainer.load_config(f"hf://{NAME}").train.total_steps == 4
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match=r"this account may not see it.*`hf auth login` logs in"):
        trainer.load_config(f"hf://{NAME}@other")


def test_a_revision_that_is_not_there_is_named(hub, config):
    hub.add(NAME, {"config.yaml": config})
    with pytest.raises(ConfigError, match=r"it has no such revision\. Give a branch, a tag or a commit"):
        trainer.load_config(f"hf://{NAME}@v2")


def test_no_connection_is_reported_unless_the_cache_has_the_files(hub, config, monkeypatch, tmp_path, run):
    hub.add(NAME, {"config.yaml": config})
    trainer.load_config(f"hf://{NAME}")
    use(monkeypatch, tmp_path, f"http://127.0.0.1:{free_port()}")
    assert trainer.load_config(f"hf://{NAME}").train.total_steps == 4
    with pytest.raises(
        ConfigError, match=r"'someone/other' is not in the cache .* cannot be reached \(Connection refused"
    ):
        trainer.load_config("hf://someone/other")
    with pytest.raises(OutputError, match="nothing was written to 'someone/two-parts': Connection refused"):
        trainer.push_to_hub(run, NAME)


def test_offline_mode_is_named(run, monkeypatch, tmp_path):
    use(monkeypatch, tmp_path)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        trainer.load_run("hf://someone/other")
    with pytest.raises(OutputError, match="HF_HUB_OFFLINE is set"):
        trainer.push_to_hub(run, NAME)


def test_a_download_that_is_cut_short_is_reported_and_leaves_no_file(hub, run, tmp_path):
    trainer.push_to_hub(run, NAME)
    hub.cuts = {"first/model.safetensors": 100}
    with pytest.raises(ConfigError, match=rf"run: '{NAME}' cannot be loaded: "):
        trainer.load_run(f"hf://{NAME}")
    assert not list((tmp_path / "hub").rglob("first/model.safetensors"))
    hub.cuts = {}
    assert trainer.load_run(f"hf://{NAME}").step == 4


def test_only_files_that_hold_no_code_are_downloaded(hub, config, run, tmp_path):
    trainer.push_to_hub(run, NAME)
    ours = {name for name in hub.files(NAME) if name != "README.md"}
    hub.files(NAME).update(dict.fromkeys(["setup.py", "pytorch_model.bin", "checkpoints/step_1/x.pkl", "a.yaml"], b"x"))
    hub.files(NAME).update({"config.json": b"{}", "policy_preprocessor_step_5_normalizer_processor.safetensors": b"x"})
    folder = trainer.load_run(f"hf://{NAME}").config.train.run_dir
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == ours | {"config.json", "policy_preprocessor_step_5_normalizer_processor.safetensors"}


def test_a_repository_without_our_files_is_named(hub, tmp_path):
    hub.add(NAME, {"pytorch_model.bin": b"x"})
    raw = small(tmp_path / "run")
    raw["model"]["components"]["first"]["init_from"] = f"hf://{NAME}"
    with pytest.raises(ConfigError, match=rf"first\.init_from: path: '{NAME}' holds no files of a run, a config"):
        trainer.train(raw)


def test_a_data_set_is_downloaded_from_the_same_hub(hub, tmp_path):
    folder = write_states(tmp_path / "states", [4, 7], files=2)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.add("someone/arm", {**files, "extra/code.py": b"x"}, kind="datasets")

    def opened(**params):
        return DataConfig(type="lerobot", params={"repo_id": "someone/arm", **params}).make("data")

    assert len(opened(episodes=[1]).train) == 7
    assert not [request for request in hub.seen if "file-000.parquet" in request and "/data/" in request]
    assert len(opened().train) == 11
    assert not [request for request in hub.seen if "code.py" in request]
    with pytest.raises(ConfigError, match=r"data\.params\.repo_id: 'someone/arm' cannot be loaded: it has no such rev"):
        opened(revision="v9")
    with pytest.raises(ConfigError, match=r"data\.params\.repo_id: 'someone/leg' cannot be loaded: there is no such"):
        opened(repo_id="someone/leg")


def test_without_huggingface_hub_each_use_names_the_extra(run, tmp_path, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for command in (["plan"], ["evaluate"], ["push", run]):
        code, printed = cli(*command, NAME if command[0] == "push" else f"hf://{NAME}")
        assert code == 2
        assert "needs huggingface_hub, which is not installed. Run: pip install 'innerstep[hub]'" in printed
    raw = small(tmp_path / "next", total_steps=1)
    trainer.train(raw)
    raw["model"]["components"]["first"]["init_from"] = f"hf://{NAME}"
    with pytest.raises(ConfigError, match=r"first\.init_from: path needs huggingface_hub"):
        trainer.train(raw, overwrite=True)
    with pytest.raises(ConfigError, match="push needs huggingface_hub"):
        trainer.load_config(small(tmp_path / "run")).push_to_hub(NAME)

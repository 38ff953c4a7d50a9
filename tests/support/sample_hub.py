"""huggingface_hub with an empty cache, offline or beside a LoopbackHub; and a small run to push."""

import loopback_hub
import pytest
import sample_parts  # noqa: F401 its keys need no plugin then
from conftest import files_of
from sample_runs import ADAMW, MLPS, config

import trainer

LIBRARY_WARNS = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")
"""About a call of its own, when it uploads a large file."""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def use(monkeypatch, tmp_path, address=None):
    """Let huggingface_hub use an empty cache, and the hub at `address`; None: none. Return the cache's folder."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    close_session()
    cache = tmp_path / "hub"
    place = address or "http://127.0.0.1:9"  # no one answers there
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", address is None)
    monkeypatch.setattr(constants, "ENDPOINT", place)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", place + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setattr("time.sleep", lambda _: None)  # it waits between its tries
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return cache


@pytest.fixture(name="hub")
def _hub(monkeypatch, tmp_path):
    """Yield a LoopbackHub that huggingface_hub uses, with an empty cache."""
    with loopback_hub.serving() as (served, address):
        use(monkeypatch, tmp_path, address)
        yield served


def in_cache(cache, name, revision="main", kind="models"):
    """Return the folder of a repository's snapshot in the cache, as huggingface_hub lays it out."""
    repository = cache / f"{kind}--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / revision).write_text(COMMIT)
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def small(run_dir, **changed):
    """Return the config of a run of two components, which needs no plugin."""
    raw = config(run_dir, MLPS, {"first": ADAMW, "second": ADAMW}, **{"total_steps": 4, "eval_every": 2, **changed})
    return raw | {"plugins": []}


def trained(folder, **changed):
    """Return the directory of a small run that has been trained."""
    trainer.train(small(folder / "run", save_every=2, keep_best={}, **changed))
    return folder / "run"


def checkpoint_files(run):
    """Return the checksums of the files in a run's newest checkpoint."""
    return files_of(run / "checkpoints" / (run / "checkpoints/latest").read_text().strip())

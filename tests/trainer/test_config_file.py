import json
import os
import shlex
import subprocess

import pytest
from conftest import COMMAND, DIGITS, ROOT

from trainer import ConfigError
from trainer.config.overrides import apply_overrides, parse_overrides
from trainer.config.yaml_file import read_config_file


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "1.e-4", "0.1e-3", "+1e-4", "1e-04"])
def test_every_spelling_of_a_small_number_is_a_number(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(f"lr: {text}\nname: '{text}'\nkept: e-4\nsteps: 600\nfactor: -1e3\n")
    config = read_config_file(path)
    assert config == {"lr": 1e-4, "name": text, "kept": "e-4", "steps": 600, "factor": -1000.0}
    assert isinstance(config["lr"], float)


def test_json_is_read_too(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"lr": 1e-4, "betas": [0.9, 0.999]}))
    assert read_config_file(path) == {"lr": 1e-4, "betas": [0.9, 0.999]}


def test_overrides_are_yaml_values():
    arguments = ["--a.b=1e-4", "--c", "[1, 2]", "--d=(0.9,0.999)", "--e", "True", "--f=", "--g=x=y", "--h", "-1"]
    expected = {"a": {"b": 1e-4}, "c": [1, 2], "d": [0.9, 0.999], "e": True, "f": None, "g": "x=y", "h": -1}
    assert apply_overrides({}, parse_overrides(arguments)) == expected


def test_overrides_reach_new_and_old_places_and_leave_the_source_alone():
    config = {"a": {"b": 1}, "n": None}
    assert apply_overrides(config, {"a.c.d": 2, "n.x": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "n": {"x": 3}}
    assert config == {"a": {"b": 1}, "n": None}
    with pytest.raises(ConfigError, match=r"--a.b.c: a.b is 1, which has no fields"):
        apply_overrides(config, {"a.b.c": 2})


SHELL = {
    "process substitution": "{innerstep} plan <(sed s/600/70/ {config}) --train.log_every=5",
    "standard input": "sed s/600/70/ {config} | {innerstep} plan /dev/stdin",
    "a descriptor": "{innerstep} plan /proc/self/fd/7 7< <(sed s/600/70/ {config})",
    "a file as standard input": "{innerstep} plan /dev/stdin --train.total_steps=70 < {config}",
    "a curve": "{innerstep} plot <(sed s/600/70/ {config})",
}


@pytest.mark.parametrize("way", SHELL)
def test_a_config_comes_from_a_pipe_that_the_shell_has_opened(way, tmp_path):
    script = SHELL[way].format(config=shlex.quote(str(DIGITS)), innerstep=shlex.quote(str(COMMAND)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "70 updates" in done.stdout or "update 69" in done.stdout, done.stdout


@pytest.mark.parametrize("text", ["a: b\n" * 300_000, "", "- 1", "a: [", "seed: 0\nseeed: 1\n"])
def test_a_mistake_in_a_pipe_is_refused(text, cli):
    reading, writing = os.pipe()
    writer = os.fork()
    if writer == 0:
        os.close(reading)
        with open(writing, "w", closefd=False) as file:
            try:
                file.write(text)
                file.flush()
            finally:
                os._exit(0)
    os.close(writing)
    code, printed = cli("plan", f"/dev/fd/{reading}")
    os.close(reading)
    os.waitpid(writer, 0)
    assert code == 2, printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("descriptor", ["/dev/fd/987654", "/dev/fd/999999999999999999999", "/proc/self/fd/x"])
def test_a_descriptor_that_is_not_open_is_refused(descriptor, cli):
    code, printed = cli("plan", descriptor)
    assert (code, "cannot be read" in printed) == (2, True), printed


def test_a_key_that_is_given_twice_in_a_long_json_is_named(tmp_path):
    path = tmp_path / "c.json"
    path.write_text("{" + ",".join(f'"{number:x}": 1' for number in range(60_000)) + ', "ea5f": 2}')
    with pytest.raises(ConfigError, match="the key 'ea5f' is given twice"):
        read_config_file(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{path: "runs/x,y:head", rename: {a.b:c}}', {"path": "runs/x,y:head", "rename": {"a.b": "c"}}),
        ("{a:'{x:y}',b:it's,c:he's}", {"a": "{x:y}", "b": "it's", "c": "he's"}),
        ('{"a":"{b:c}", d:"\\",e:f"}', {"a": "{b:c}", "d": '",e:f'}),
    ],
)
def test_text_in_quotes_in_an_override_stays_as_it_is(text, value):
    assert apply_overrides({}, parse_overrides([f"--x={text}"])) == {"x": value}

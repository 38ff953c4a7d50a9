"""Configs with mistakes in them: in the tree of values, in the text of the file, or in the overrides."""

import copy
import datetime
import json
import random
from pathlib import Path

import numpy as np
import yaml

SOURCES = {
    "schedules": {
        "seed": 0,
        "plugins": ["sample_parts"],
        "data": {"type": "noise", "batch_size": 8, "drop_last": False, "params": {"samples": 40, "held_out": 4}},
        "model": {
            "components": {
                "first": {"type": "normed", "params": {"dropout": 0.3}, "init_from": None},
                "second": {"type": "mlp", "params": {"in_features": 4, "out_features": 4, "hidden": [4]}},
            },
            "component_optims": {
                "first": {
                    "type": "adamw",
                    "every": 2,
                    "params": {
                        "lr": 1e-2,
                        "betas": [0.9, 0.99],
                        "schedule": {"type": "one_cycle", "max_lr": 0.1},
                        "param_groups": [{"match": "norm.*", "weight_decay": 0.0}],
                        "option_schedules": {"weight_decay": {"type": "linear"}},
                    },
                },
                "second": {
                    "type": "adamw_warmup_cosine_decay",
                    "params": {"peak_lr": 1e-3, "start_lr": 1e-5, "end_lr": 1e-5, "warmup_steps": 3},
                },
            },
        },
        "train": {
            "objective": {"type": "regression"},
            "total_steps": 12,
            "run_dir": "runs/x",
            "device": "cpu",
            "precision": "fp32",
            "grad_clip_norm": 1.0,
            "eval_every": 4,
            "keep_best": {"monitor": "val_loss"},
            "on_nonfinite": "stop",
        },
        "resume": {"on_change": None},
    },
    "sequence": {
        "plugins": ["sample_parts"],
        "data": {"type": "noise", "batch_size": 8, "params": {"samples": 40}},
        "model": {
            "components": {"only": {"type": "sample_parts.Normed", "freeze": False}},
            "component_optims": {
                "only": {
                    "type": "sgd",
                    "params": {
                        "lr": 0.1,
                        "schedule": {
                            "type": "sequence",
                            "schedules": [{"type": "linear"}, {"type": "StepLR", "step_size": 3, "gamma": 0.5}],
                            "milestones": [5],
                        },
                    },
                }
            },
        },
        "train": {"objective": {"type": "regression", "params": {}}, "epochs": 2, "run_dir": "~/runs/$USER"},
    },
}
ODD = [
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    2**31,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    -(10**30),
    2**2000,
    0.5,
    -0.0,
    1e-300,
    1e300,
    float("inf"),
    float("nan"),
    "",
    " ",
    "0",
    "1e-4",
    "yes",
    "on",
    "null",
    "~",
    "~/x",
    "~nobody/x",
    "$NO_SUCH",
    "${X",
    "$$",
    "2026-11-25",
    "010",
    "1:30",
    "a: b",
    "# c",
    "{x}",
    "[x]",
    "(0.9, 0.99)",
    "(a",
    "\x1b[2J",
    "\0",
    "\n\n",
    "é\u2028\ufeff",
    "\ud800",
    "a" * 5000,
    "../..",
    "/",
    "os.system",
    "os.",
    ".x",
    "sample_parts.Noise",
    "a:b",
    "preset",
    "adamw",
    "mlp",
    "cuda:99",
    [],
    {},
    [[]],
    [1, "a", None],
    {"type": "mlp"},
    {"type": None},
    {"": {}},
    {"type": "constant", "x": 1},
]
NOT_PLAIN = [
    {1, 2},
    b"x",
    (1, 2),
    datetime.date(2026, 11, 25),
    print,
    object(),
    np.float32(0.5),
    np.zeros(3),
    Path("x"),
    1j,
    {1: 2},
]
KEYS = ["", "type", "params", "on", "a.b", "1", "é", "\x1b", "x" * 300, "<<", "__class__", "model", "lr", "schedule"]
SNIPPETS = [
    "&a ",
    "*a",
    "!!binary ",
    "!!set {a}",
    "!x ",
    "<<: *a\n",
    "<<: {lr: 1}\n",
    "? ",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "'",
    '"',
    "|\n",
    ">\n",
    "#",
    "\t",
    "\n",
    "\r",
    "---\n",
    "...\n",
    "%YAML 9.9\n",
    "\0",
    "\x85",
    "\ufeff",
    "é",
    "0x" + "f" * 9999,
    "9" * 5000,
    "1e999",
    "2026-11-25",
    "010",
    "0o10",
    "1:30",
    "[" * 300,
    "{a: " * 300,
    "~",
    "$HOME",
    '"\\ud800"',
    '"\\e[2J"',
    "@",
    "`",
    "%",
]


NUMBERS = (int, float)
WORDS = [
    "linear",
    "cosine",
    "one_cycle",
    "plateau",
    "StepLR",
    "ExponentialLR",
    "CyclicLR",
    "OneCycleLR",
    "sgd",
    "adam",
    "muon",
    "schedule_free_radam",
    "LBFGS",
    "normed",
    "mlp",
    "tied",
    "transformer",
    "bf16",
    "skip",
    "val_size",
    "norm.*",
    "5%",
    "1epoch",
]
ODD += [2, 5, 7, 12, 40, 0.1, 0.999, 1.0, 100, 1000, *WORDS]


def places(tree, path=()):
    """Return the path of every value in `tree`."""
    found = [path] if path else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        found += places(value, (*path, key))
    return found


def at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def odd_value(rng, tree, old=None):
    """Return a replacement for `old`, half of the time of the same type."""
    alike = [value for value in ODD if isinstance(value, NUMBERS if isinstance(old, NUMBERS) else type(old))]
    if alike and old is not None and rng.random() < 0.6:
        return copy.deepcopy(rng.choice(alike))
    kind = rng.randrange(6)
    if kind == 0:
        return copy.deepcopy(at(tree, rng.choice(places(tree))))
    if kind == 1:
        value = rng.choice(ODD)
        for _ in range(rng.choice([1, 3, 60, 70, 100])):
            value = [value] if rng.random() < 0.5 else {rng.choice(KEYS): value}
        return value
    return copy.deepcopy(rng.choice(ODD))


def mutate_tree(rng, tree):
    """Make one mistake in a tree, in place."""
    path = rng.choice(places(tree))
    parent, key = at(tree, path[:-1]), path[-1]
    way = rng.choice(["put"] * 6 + ["delete", "rename", "add", "swap", "type"])
    if way == "delete":
        del parent[key]
    elif way == "rename" and isinstance(parent, dict):
        letters = list(key)
        rng.shuffle(letters)
        parent[rng.choice([rng.choice(KEYS), "".join(letters), key[:-1], key + "s", key.upper()])] = parent.pop(key)
    elif way == "add" and isinstance(parent, dict):
        parent[rng.choice(KEYS)] = odd_value(rng, tree)
    elif way == "swap":
        other = rng.choice(places(tree))
        parent[key] = copy.deepcopy(at(tree, other))
    elif way == "type":
        value = parent[key]
        parent[key] = rng.choice([str(value), [value], {"type": value}, [value] * 3, {str(value): value}])
    else:
        parent[key] = odd_value(rng, tree, parent[key])


def mutate_text(rng, text):
    """Return `text` with one mistake."""
    position = rng.randrange(len(text) + 1)
    end = min(len(text), position + rng.choice([0, 1, 5, 40]))
    lines = text.split("\n")
    row = rng.randrange(len(lines))
    way = rng.randrange(6)
    if way == 0:
        return text[:position] + rng.choice(SNIPPETS) + text[end:]
    if way == 1:
        lines.insert(rng.randrange(len(lines)), lines[row])
    elif way == 2:
        del lines[row]
    elif way == 3:
        lines[row] = rng.choice(["", " ", "  ", "    ", "\t"]) + lines[row].lstrip()
    elif way == 4:
        key, colon, _ = lines[row].partition(":")
        lines[row] = f"{key}{colon} {rng.choice(SNIPPETS)}"
    else:
        return text[:position] + chr(rng.choice([rng.randrange(128), rng.randrange(0x250), 0x1F600])) + text[end:]
    return "\n".join(lines)


def mutated(seed, folder):
    """Return the source and the overrides of config number `seed`; a file is written into `folder`."""
    rng = random.Random(seed)
    tree = copy.deepcopy(SOURCES[rng.choice(list(SOURCES))])
    way = rng.choice(["mapping", "yaml", "json", "text", "text", "overrides"])
    if way == "overrides":
        return tree, [override(rng, tree) for _ in range(rng.choice([1, 2, 3]))]
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        if way != "text" and places(tree):
            mutate_tree(rng, tree)
    if way == "mapping":
        if places(tree) and rng.random() < 0.3:
            path = rng.choice(places(tree))
            at(tree, path[:-1])[path[-1]] = rng.choice(NOT_PLAIN)
        return tree, []
    text = json.dumps(tree) if way == "json" else yaml.dump(tree, sort_keys=False, allow_unicode=rng.random() < 0.5)
    if way == "text":
        for _ in range(rng.choice([1, 1, 2, 5])):
            text = mutate_text(rng, text)
    file = folder / f"{seed}.{'json' if way == 'json' else 'yaml'}"
    file.write_bytes(text.encode(rng.choice(["utf-8"] * 20 + ["utf-16", "utf-8-sig"]), errors="surrogatepass"))
    return file, []


def override(rng, tree):
    path = [str(part) for part in rng.choice(places(tree))]
    if rng.random() < 0.2:
        path[rng.randrange(len(path))] = rng.choice(KEYS)
    value = rng.choice([*SNIPPETS, *map(str, ODD), *WORDS])
    return f"--{'.'.join(path)}={value}" if rng.random() < 0.95 else value

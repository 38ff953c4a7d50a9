"""Configs with a name or a form that is refused: each with the place of the mistake, its path, words of the remedy."""

from dataclasses import dataclass

GOOD = """\
seed: 0
plugins: [sample_traces]
data:
  type: traced
  params: {samples: 12}
  batch_size: 4
model:
  components:
    first:
      type: mlp
      params: {in_features: 4, out_features: 4, hidden: [4]}
      freeze: false
    head:
      type: mlp
      params:
        in_features: 4
        out_features: 4
  component_optims:
    first: {type: sgd, params: {lr: 0.1}}
    head:
      type: adamw
      params:
        lr: 1e-3
        betas: [0.9, 0.999]
        schedule: {type: cosine, num_warmup_steps: 2}
train:
  objective: {type: regression}
  total_steps: 10
  run_dir: runs/small
  device: cpu
"""
"""A config that trains. Its lines have the numbers below."""
SEED, PLUGINS, DATA, DATA_TYPE, DATA_PARAMS, BATCH = range(1, 7)
FIRST, FIRST_TYPE, FIRST_PARAMS, FREEZE, HEAD, HEAD_TYPE = range(9, 15)
FIRST_OPTIM, HEAD_OPTIM, OPTIM_TYPE, OPTIM_PARAMS, LR, BETAS, SCHEDULE = range(19, 26)
TRAIN, OBJECTIVE, STEPS, RUN_DIR, DEVICE = range(26, 31)


@dataclass(frozen=True)
class Broken:
    """A config with a mistake in it."""

    name: str
    text: str
    position: str
    """Line and column, `28:3`."""
    path: str
    """The dotted path in the message; "" if the file is not read as far as that."""
    says: str
    """Words of the message after the path."""
    suffix: str = ".yaml"


def at(*lines: tuple[int, str], text: str = GOOD) -> str:
    """Return a text with lines replaced, by their number from 1. A line may become several, or nothing at all."""
    parts = text.splitlines(keepends=True)
    for number, line in lines:
        parts[number - 1] = line and f"{line}\n"
    return "".join(parts)


def after(number: int, line: str) -> str:
    """Return the good text with another line after one."""
    return at((number, GOOD.splitlines()[number - 1] + "\n" + line))


def rows(*values: tuple[str, str, str, str, str]) -> list[Broken]:
    """Return a row for each tuple of its values."""
    return [Broken(*each) for each in values]


NAMES = rows(
    ("misspelt section", at((TRAIN, "trian:")), "26:1", "trian", "did you mean 'train'?"),
    ("missing section", "".join(GOOD.splitlines(True)[:25]), "1:1", "train", "required, but not given"),
    ("misspelt field of data", at((BATCH, "  batchsize: 4")), "6:3", "data.batchsize", "did you mean 'batch_size'?"),
    ("misspelt field of an entry", at((FIRST_TYPE, "      typ: mlp")), "10:7", "model.components.first.typ", "'type'?"),
    ("missing type", at((FIRST_TYPE, "")), "9:5", "model.components.first.type", "required, but not given"),
    (
        "unknown component",
        at((FIRST_TYPE, "      type: mpl")),
        "10:7",
        "model.components.first.type",
        "did you mean 'mlp'",
    ),
    ("unknown optimizer", at((OPTIM_TYPE, "      type: adamww")), "21:7", "component_optims.head.type", "mean 'adamw'"),
    ("unknown data", at((DATA_TYPE, "  type: trased")), "4:3", "data.type", "did you mean 'traced'"),
    ("unknown objective", at((OBJECTIVE, "  objective: {type: regresion}")), "27:15", "objective.type", "'regression'"),
    (
        "unknown schedule",
        at((SCHEDULE, "        schedule: {type: onecycle}")),
        "25:20",
        "params.schedule.type",
        "did you mean 'one_cycle'",
    ),
    (
        "misspelt parameter of a schedule",
        at((SCHEDULE, "        schedule: {type: cosine, warmup: 2}")),
        "25:34",
        "params.schedule.warmup",
        "did you mean 'num_warmup_steps'",
    ),
    (
        "misspelt parameter of a component",
        at((FIRST_PARAMS, "      params: {in_feature: 4, out_features: 4}")),
        "11:16",
        "model.components.first.params.in_feature",
        "did you mean 'in_features'",
    ),
    (
        "missing parameter of a schedule",
        at((SCHEDULE, "        schedule: {type: one_cycle}")),
        "25:9",
        "model.component_optims.head.params.schedule.max_lr",
        "required, but not given",
    ),
    (
        "misspelt parameter of data",
        at((DATA_PARAMS, "  params: {sample: 1}")),
        "5:12",
        "data.params.sample",
        "mean 'samples'",
    ),
    ("misspelt name of an optimizer", at((HEAD_OPTIM, "    haed:")), "20:5", "component_optims.haed", "mean 'head'"),
    ("missing optimizer's type", at((OPTIM_TYPE, "")), "20:5", "component_optims.head.type", "required, but not given"),
    ("misspelt field of train", at((STEPS, "  total_step: 10")), "28:3", "train.total_step", "mean 'total_steps'"),
    ("misspelt run_dir", at((RUN_DIR, "  run_dri: runs/x")), "29:3", "train.run_dri", "did you mean 'run_dir'"),
    ("missing run_dir", at((RUN_DIR, "")), "26:1", "train.run_dir", "required, but not given"),
    (
        "a name of nn.ModuleDict",
        at((FIRST, "    items:")),
        "9:5",
        "model.components.items",
        "cannot be a component's name",
    ),
    ("a number as a name", at((FIRST, "    1:")), "9:5", "model.components.1", "cannot be a component's name"),
    (
        "a word for true as a name",
        at((HEAD_OPTIM, "    on:")),
        "20:5",
        "component_optims.on",
        "no component of this name",
    ),
    ("unknown section", after(SEED, "callbacks: []"), "2:1", "callbacks", "unknown name"),
    ("a section twice in other letters", after(SEED, "Train: {}"), "2:1", "Train", "did you mean 'train'"),
    ("unknown sink", after(DEVICE, "  log: [jsonl, sample.Missing]"), "31:16", "train.log.1", "sample"),
)
"""Names that are misspelt, missing or unknown."""

SYNONYMS = [
    *rows(
        ("learning_rate", at((LR, "        learning_rate: 1e-3")), "23:9", "head.params.learning_rate", "mean 'lr'?"),
        ("wd", after(LR, "        wd: 0.1"), "24:9", "head.params.wd", "did you mean 'weight_decay'?"),
        ("beta1", at((BETAS, "        beta1: 0.9")), "24:9", "head.params.beta1", "did you mean 'betas'?"),
        ("fused", after(LR, "        fused: true"), "24:9", "head.params.fused", "did you mean 'implementation'?"),
        ("foreach", after(LR, "        foreach: true"), "24:9", "params.foreach", "did you mean 'implementation'?"),
        ("epsilon", after(LR, "        epsilon: 1e-8"), "24:9", "head.params.epsilon", "did you mean 'eps'?"),
        ("lr_scheduler", at((SCHEDULE, "        lr_scheduler: {}")), "25:9", "params.lr_scheduler", "mean 'schedule'?"),
        (
            "peak learning rate",
            at((FIRST_OPTIM, "    first: {type: adamw_warmup_cosine_decay, params: {learning_rate: 1}}")),
            "19:55",
            "first.params.learning_rate",
            "did you mean 'peak_lr'?",
        ),
        ("lr beside params", after(OPTIM_TYPE, "      lr: 1e-3"), "22:7", "head.lr", "inside params: {lr: 0.001}"),
        (
            "learning_rate beside params",
            after(OPTIM_TYPE, "      learning_rate: 1"),
            "22:7",
            "head.learning_rate",
            "{lr: 1}",
        ),
        (
            "hidden beside params",
            after(FIRST_TYPE, "      hidden: [8]"),
            "11:7",
            "first.hidden",
            "inside params: {hidden: [8]}",
        ),
        (
            "samples beside params",
            after(DATA_TYPE, "  samples: 4"),
            "5:3",
            "data.samples",
            "inside params: {samples: 4}",
        ),
        (
            "args for params",
            at((FIRST_PARAMS, "      args: {}")),
            "11:7",
            "components.first.args",
            "did you mean 'params'",
        ),
        ("name for type", at((FIRST_TYPE, "      name: mlp")), "10:7", "components.first.name", "did you mean 'type'"),
        ("requires_grad", at((FREEZE, "      requires_grad: false")), "12:7", "first.requires_grad", "mean 'freeze'"),
        ("pretrained", at((FREEZE, "      pretrained: x.pt")), "12:7", "first.pretrained", "did you mean 'init_from'"),
        ("batch_size in train", after(STEPS, "  batch_size: 4"), "29:3", "train.batch_size", "write data.batch_size"),
        ("num_workers in train", after(STEPS, "  num_workers: 4"), "29:3", "train.num_workers", "write data.workers"),
        ("seed in train", after(STEPS, "  seed: 4"), "29:3", "train.seed", "write seed"),
        ("lr in train", after(STEPS, "  lr: 4"), "29:3", "train.lr", "component_optims.NAME.params.lr"),
        ("total_steps at the top", after(SEED, "total_steps: 4"), "2:1", "total_steps", "write train.total_steps"),
        (
            "total_steps in data",
            after(DATA_TYPE, "  total_steps: 4"),
            "5:3",
            "data.total_steps",
            "write train.total_steps",
        ),
        ("components at the top", after(SEED, "components: {}"), "2:1", "components", "write model.components"),
        (
            "optimizers in model",
            after(7, "  optimizers: {}"),
            "8:3",
            "model.optimizers",
            "did you mean 'component_optims'",
        ),
        ("on_change in train", after(STEPS, "  on_change: keep"), "29:3", "train.on_change", "write resume.on_change"),
        (
            "dataset of LeRobot",
            after(SEED, "dataset: {repo_id: lerobot/pusht}"),
            "2:11",
            "dataset.repo_id",
            "data.params.repo_id",
        ),
        ("policy of LeRobot", after(SEED, "policy: {type: act}"), "2:10", "policy.type", "model.policy.type"),
        ("optimizer of LeRobot", after(SEED, "optimizer: {lr: 1e-4}"), "2:13", "optimizer.lr", "policy.params.lr"),
    ),
    *(
        Broken(f"{name} in train", after(STEPS, f"  {name}: 1"), "29:3", f"train.{name}", f"did you mean '{ours}'?")
        for name, ours in {
            "steps": "total_steps",
            "max_steps": "total_steps",
            "num_epochs": "epochs",
            "epoch": "epochs",
            "max_epochs": "epochs",
            "output_dir": "run_dir",
            "save_freq": "save_every",
            "save_steps": "save_every",
            "log_freq": "log_every",
            "logging_steps": "log_every",
            "eval_freq": "eval_every",
            "val_check_interval": "eval_every",
            "clip_grad_norm": "grad_clip_norm",
            "max_grad_norm": "grad_clip_norm",
            "gradient_clip_val": "grad_clip_norm",
            "amp": "precision",
            "mixed_precision": "precision",
            "gradient_accumulation_steps": "accumulate",
            "save_total_limit": "keep_last",
            "criterion": "objective",
        }.items()
    ),
    *(
        Broken(f"{name} in data", after(DATA_TYPE, f"  {name}: 1"), "5:3", f"data.{name}", f"did you mean '{ours}'?")
        for name, ours in {"bs": "batch_size", "num_workers": "workers", "train_batch_size": "batch_size"}.items()
    ),
    *(
        Broken(f"{name} at the top", after(SEED, f"{name}: 1"), "2:1", name, f"write {home}")
        for name, home in {
            "batch_size": "data.batch_size",
            "learning_rate": "model.component_optims.NAME.params.lr",
            "num_workers": "data.workers",
            "max_epochs": "train.epochs",
            "output_dir": "train.run_dir",
            "mixed_precision": "train.precision",
            "accelerator": "train.device",
        }.items()
    ),
]
"""Names of other libraries, and fields in the wrong section."""

FORM = [
    *rows(
        ("a tab", at((BATCH, "\tbatch_size: 4")), "6:1", "", "a tab; indent with spaces"),
        ("no space after a colon", at((SEED, "seed:0")), "1:5", "", "a space is missing after seed:"),
        ("a key twice", after(SEED, "seed: 1"), "2:1", "", "the key 'seed' is given twice"),
        ("a list that is not closed", at((PLUGINS, "plugins: [sample_traces")), "3:5", "", "a comma is missing, or ]"),
        (
            "a bracket too many",
            at((PLUGINS, "plugins: [sample_traces]]")),
            "2:25",
            "",
            "does not fit what stands before it",
        ),
        (
            "a quote that is not closed",
            at((RUN_DIR, "  run_dir: 'runs"), (DEVICE, "")),
            "29:12",
            "",
            "the quote that begins here",
        ),
        ("indented too far", at((BATCH, "   batch_size: 4")), "6:4", "", "indented further"),
        ("indented too little", at((BATCH, " batch_size: 4")), "6:2", "", "indented"),
        ("a colon in text", at((RUN_DIR, "  run_dir: runs: small")), "29:16", "", "a second colon"),
        ("a leading zero", at((BATCH, "  batch_size: 010")), "6:15", "", "a number with leading zeros"),
        ("a comma in a number", at((DATA_PARAMS, "  params: {samples: 1,024}")), "5:23", "", "Write 1_000"),
        (
            "a tag",
            at((SEED, "seed: !!python/name:os.system x")),
            "1:7",
            "",
            "the tag !!python/name:os.system is not allowed",
        ),
        ("a date by a tag", at((RUN_DIR, "  run_dir: !!timestamp 2026-11-25")), "29:12", "", "is not allowed"),
        ("a set", at((PLUGINS, "plugins: !!set {a, b}")), "2:10", "", "is not allowed"),
        ("an alias of nothing", at((SEED, "seed: *none")), "1:7", "", "no &none comes before"),
        ("an alias in itself", at((PLUGINS, "plugins: &a [*a]")), "2:14", "", "inside its own value"),
        ("a list as a key", at((SEED, "? [a, b]\n: 1")), "1:3", "", "a key must be text"),
        ("a star without quotes", at((FREEZE, "      freeze: [*.norm]")), "12:17", "", "must be in quotes"),
        ("an at sign", at((RUN_DIR, "  run_dir: @runs")), "29:12", "", "put it in quotes"),
        (
            "a list item on the line of a key",
            at((PLUGINS, "plugins: - sample_traces")),
            "2:10",
            "",
            "on a separate line",
        ),
        ("a second document", GOOD + "---\nseed: 1\n", "31:1", "", "a second document begins"),
        ("a number beyond floats", at((LR, "        lr: 1e999")), "23:13", "", "does not fit into a float"),
        ("a merge of text", at((SEED, "<<: text")), "1:1", "", "must be followed by a mapping"),
        ("a word without a colon", at((SEED, "seed 0")), "1:1", "", "a key without a colon"),
        ("an escape", at((RUN_DIR, '  run_dir: "C:\\data"')), "29:16", "", "no escape begins with this"),
        ("a control character", at((RUN_DIR, "  run_dir: a\ab")), "29:13", "", "U+0007"),
        ("${} in brackets", at((DATA_PARAMS, "  params: {samples: ${N}}")), "5:22", "", "put ${...} into quotes"),
        (
            "an anchor's value",
            at((SEED, "x-o: &o {type: sgd, params: {lr: fast}}"), (FIRST_OPTIM, "    first: *o")),
            "1:30",
            "first.params.lr",
            "got 'fast'",
        ),
        (
            "a merged value",
            at((SEED, "x-o: &o {params: {lr: fast}}"), (FIRST_OPTIM, "    first: {<<: *o, type: sgd}")),
            "1:19",
            "first.params.lr",
            "got 'fast'",
        ),
    ),
    *(
        Broken(name, text, position, path, says, ".json")
        for name, text, position, path, says in (
            ("a comma at the end of JSON", '{\n  "seed": 0,\n}', "3:1", "", "a key in double quotes"),
            ("a key without quotes in JSON", "{seed: 0}", "1:2", "", "a key in double quotes"),
            ("a key twice in JSON", '{"seed": 0,\n "seed": 1}', "2:2", "", "given twice"),
            ("a comment in JSON", '{"seed": 0} // zero', "1:13", "", "after the end"),
            ("a value in JSON", '{\n\t"seed": "x",\n\t"trian": {}}', "2:2", "seed", "a whole number; got 'x'"),
            ("a name in JSON", '{\n\t"seed": 0,\n\t"trian": {}}', "3:2", "trian", "did you mean 'train'"),
        )
    ),
]
"""Texts that are not well-formed, and values that stand in other places than they are used."""

BROKEN = [*NAMES, *SYNONYMS, *FORM]

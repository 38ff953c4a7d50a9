"""Command lines that are refused, in a folder with the good config as c.yaml: each with words of the message."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BrokenCommand:
    """A command line with a mistake in it."""

    line: str
    says: tuple[str, ...]
    """Words of the message, in this order. An override's error begins with `--dotted.path: `."""


OPTIM = "model.component_optims.head"


def _override(key: str, value: str, *says: str, path: str = "") -> BrokenCommand:
    """Return the row of an override whose error names its flag, and the path if that is one inside the flag's."""
    return BrokenCommand(
        f"plan c.yaml --{key}={value}", (f"--{key}: {path}: " if path and path != key else f"error: --{key}: ", *says)
    )


OVERRIDES = [
    _override("train.total_steps", "many", "must be a whole number; got 'many'"),
    _override("train.total_steps", "0", "greater than or equal to 1; got 0"),
    _override("train.total_steps", "1.5", "without a fraction"),
    _override("train.save_every", "None", "is written null"),
    _override("train.compile", "yes", "Write true"),
    _override("train.precision", "float16", "'fp32', 'bf16' or 'fp16'"),
    _override("train.on_nonfinite", "stopp", "did you mean 'stop'"),
    _override("train.device", "gpu", "no such device"),
    _override("train.run_dir", "", "must not be empty"),
    _override("train.log", "[]", "must contain jsonl"),
    _override("train.steps", "3", "did you mean 'total_steps'"),
    _override("train.step", "3", "did you mean 'total_steps'"),
    _override("train.batch_size", "3", "write data.batch_size"),
    _override("train.lr", "3", "component_optims.NAME.params.lr"),
    _override("train.objective.type", "regresion", "did you mean 'regression'"),
    _override("data", "", "must be a mapping with a `type`"),
    _override("data.batch_size", "-1", "greater than or equal to 1"),
    _override("data.num_workers", "2", "did you mean 'workers'"),
    _override("data.params.samplse", "2", "did you mean 'samples'"),
    _override("seed", "", "must be a whole number; got null"),
    _override("seed", "-1", "greater than or equal to 0"),
    _override("model.components.head", "mlp", "{type: mlp}"),
    _override("model.components.head.type", "mpl", "did you mean 'mlp'"),
    _override("model.components.head.freeze", "5", "must be true or false"),
    _override("model.components.head.params.in_feature", "5", "did you mean 'in_features'"),
    _override(f"{OPTIM}.type", "adamww", "did you mean 'adamw'"),
    _override(f"{OPTIM}.params.lr", "fast", "must be a number; got 'fast'"),
    _override(f"{OPTIM}.params.lr", "-1", "must be at least 0"),
    _override(f"{OPTIM}.params.learning_rate", "1", "did you mean 'lr'"),
    _override(f"{OPTIM}.params.betas", "[0.9]", "at least 2 items"),
    _override(f"{OPTIM}.params.betas", "0.9", "must be a list"),
    _override(f"{OPTIM}.params.schedule", "cosine", "{type: cosine}"),
    _override(f"{OPTIM}.lr", "1", "inside params: {lr: 1}"),
    _override("resume.on_change", "kep", "did you mean 'keep'"),
    _override("plugins", "[numpyy]", "numpyy", path="plugins.0"),
    _override("trian.total_steps", "7", "did you mean 'train'", path="trian"),
    BrokenCommand(
        "plan c.yaml --train.total_steps=x --data.batch_size=y",
        ("--data.batch_size: ", "--train.total_steps: "),
    ),
]
"""Overrides of a wrong name or value."""

COMMANDS = [
    BrokenCommand(f"plan c.yaml --{OPTIM.replace('head', 'haed')}.params.lr=1", ("haed", "did you mean 'head'?")),
    BrokenCommand("plan c.yaml --model.component_optims.*.params.lr=1", ("--model.component_optims.*.params.lr",)),
    BrokenCommand("plan c.yaml --model.components.new.params.in_features=3", ("'new'", "type too")),
    BrokenCommand("plan c.yaml -train.total_steps=7", ("did you mean --train.total_steps=7?",)),
    BrokenCommand("plan c.yaml train.total_steps=7", ("did you mean --train.total_steps=7?",)),
    BrokenCommand("plan c.yaml --seed.x=3", ("--seed.x: seed is 0, which has no fields",)),
    BrokenCommand("plan c.yaml --train={total_steps:", ("--train: ", "is not a YAML value")),
    BrokenCommand("plan c.yaml --train.total_steps=010", ("--train.total_steps: ", "leading zeros")),
    BrokenCommand("plan c.yaml --train.total_steps=1e400", ("--train.total_steps: ", "does not fit into a float")),
    BrokenCommand("train c.yaml --overwite", ("--overwite", "did you mean --overwrite?")),
    BrokenCommand("plan c.yaml --batch_size=3", ("--batch_size: ", "did you mean --data.batch_size?")),
    BrokenCommand("plan c.yaml --max-steps=3", ("--max-steps: ", "did you mean --train.total_steps?")),
    BrokenCommand("plan c.yaml --lr 3", ("--lr: ", "did you mean --model.component_optims.NAME.params.lr?")),
    BrokenCommand("train c.yaml --overwrite --or-resume", ("use one of the two",)),
    BrokenCommand("train c.yaml --resum", ("--resum", "did you mean --resume")),
    BrokenCommand("plan", ("Missing argument 'CONFIG'",)),
    BrokenCommand("pln c.yaml", ("Did you mean 'plan'?",)),
    BrokenCommand("checkpoint verfy nope", ("Did you mean 'verify'?",)),
    BrokenCommand("plan nope.yaml", ("nope.yaml: ", "cannot be read", "Give the path of a YAML or JSON file")),
    BrokenCommand("plan .", ("cannot be read", "Give the path of a YAML or JSON file")),
    BrokenCommand("list --config nope.yaml", ("nope.yaml: ", "cannot be read")),
    BrokenCommand("resume c.yaml", ("c.yaml is a config", "innerstep resume runs/small")),
    BrokenCommand("resume nope", ("there is no run here", "innerstep train CONFIG")),
    BrokenCommand("evaluate nope", ("there is no run here",)),
    BrokenCommand("describe mpl", ("did you mean 'mlp'",)),
    BrokenCommand("describe trian", ("did you mean 'train'",)),
    BrokenCommand("plot c.yaml --out x.bmp", ("--out: must end in",)),
    BrokenCommand("plot one_cycle", ("max_lr: required",)),
    BrokenCommand("plot one_cycle --max_lr=3 --pct_strat=0.3", ("pct_strat", "did you mean 'pct_start'")),
    BrokenCommand("checkpoint verify nope", ("there is no checkpoint here", "Give a run")),
    BrokenCommand("export nope out --to torch", ("there is no run here",)),
    BrokenCommand("export nope out --to onnx", ("--to: must be torch or lerobot",)),
]
"""Other mistakes on the command line."""

BROKEN_COMMANDS = [*OVERRIDES, *COMMANDS]

"""The names of the files and folders of a run.

RUN/config.yaml                         the resolved config, enough to run it again
RUN/metrics.jsonl                       one object a line
RUN/timeline.jsonl                      when its processes began and ended; how long checkpoints and evaluations took
RUN/report.html                         written by `innerstep report`
RUN/videos/episode_100000.mp4           an episode by its seed, if train.evaluation.video asks for it
RUN/tensorboard/                        event files, one a session, if train.log has tensorboard
RUN/wandb_run.json                      the run of Weights & Biases, if train.log has wandb
RUN/wandb/                              files of wandb's
RUN/.lock                               held by the process that trains
RUN/checkpoints/latest, best            each names a checkpoint
RUN/checkpoints/step_00000600/          one checkpoint:
    manifest.json                       files with sizes and checksums
    trainer.json, rng.safetensors       the run's position and random numbers
    objective.*, data.*                 state of the user's objective and data set, where they have some
    COMPONENT/model.safetensors         weights, and extra_state.* for the state that is more than tensors
    COMPONENT/ema.safetensors           averages of the weights, and ema.json, if train.ema asks for them
    COMPONENT/optimizer.safetensors     optimizer state, and optimizer.json
"""

CONFIG = "config.yaml"
SECTIONS = ("seed", "plugins", "data", "model", "train", "distributed", "resume")
"""The top-level keys of a config. That of a run has each of them, with every default filled in."""
ANCHORS = "x-"
"""The beginning of the names of sections that hold values for aliases and references, and nothing else."""
METRICS = "metrics.jsonl"
NOT_UNDERSTOOD = "metrics.jsonl.bad"
"""The file to which lines of metrics.jsonl are moved that no run wrote."""
TIMELINE = "timeline.jsonl"
REPORT = "report.html"
LOCK = ".lock"
ROLLOUTS = "rollouts.png"
VIDEOS = "videos"
TENSORBOARD = "tensorboard"
WANDB = "wandb"
WANDB_RUN = "wandb_run.json"

CHECKPOINTS = "checkpoints"
LATEST = "latest"
BEST = "best"

MANIFEST = "manifest.json"
TRAINER = "trainer.json"
RNG_TENSORS = "rng.safetensors"
OBJECTIVE_TENSORS = "objective.safetensors"
OBJECTIVE_VALUES = "objective.json"
DATA_TENSORS = "data.safetensors"
DATA_VALUES = "data.json"
WEIGHTS = "model.safetensors"
EXTRA_VALUES = "extra_state.json"
EXTRA_TENSORS = "extra_state.safetensors"
"""With EXTRA_VALUES, the part of a state dict that `get_extra_state` of its modules returned, if there is any."""
EMA_TENSORS = "ema.safetensors"
EMA_VALUES = "ema.json"
"""The averages of `train.ema`, under the names in WEIGHTS, and the steps that they were made over."""
OPTIMIZER_TENSORS = "optimizer.safetensors"
OPTIMIZER_VALUES = "optimizer.json"

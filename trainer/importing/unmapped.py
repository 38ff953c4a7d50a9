"""LeRobot's fields without a place in innerstep's config: their defaults there, the reason, and what to do instead."""

from ..config.plain_values import Plain
from .conversion import Conversion

_SINK = "`train.log: [jsonl, wandb]` logs to W&B, set up by WANDB_PROJECT and its other environment variables"
_HUB = "`innerstep push RUN ORG/NAME` uploads after the run (docs/hub.md)"
_JOB = "a run trains where it is started; submit the command `innerstep train` yourself"
_LOADER = "the workers of innerstep have fixed settings; data.workers is their number"
_LORA = "there are no adapters here: the whole policy trains. freeze and parts choose what trains"
_WEIGHTS = "every sample weighs the same here; an objective can weigh them (docs/extending.md)"
_PROCESSES = "a run is one process on one device (docs/limits.md)"
_MEMORY = "a component checkpoints its activations itself, by torch.utils.checkpoint in its forward"
_COMPILE = "train.compile compiles the components"
_RECORD = "episodes are not recorded as a data set; train.evaluation.video records videos"

_FIELDS: dict[str, tuple[Plain, str]] = {
    "resume": (False, "`innerstep resume RUN` continues a run"),
    "checkpoint_path": (None, "`innerstep resume RUN` continues a run"),
    "cudnn_deterministic": (False, "call torch.use_deterministic_algorithms in a plugin (docs/run.md)"),
    "prefetch_factor": (4, _LOADER),
    "persistent_workers": (True, _LOADER),
    "dataloader_multiprocessing_context": ("spawn", _LOADER),
    "max_eval_samples": (0, "an evaluation takes all held-out samples; data.params.held_out is their share"),
    "tolerance_s": (1e-4, "times may differ from a frame's by 1e-4 s here, always"),
    "save_checkpoint_to_hub": (False, _HUB),
    "dataset.repo_type": ("dataset", "data.params.repo_id is always a data set's repository, not a bucket"),
    "dataset.return_uint8": (False, "frames are uint8 until they are normalized, always"),
    "dataset.depth_output_unit": ("mm", "depth maps are not loaded"),
    "dataset.streaming": (False, "data sets are not streamed: the files are downloaded first"),
    "policy.use_peft": (False, _LORA),
    "policy.push_to_hub": (False, _HUB),
    "policy.repo_id": (None, _HUB),
    "policy.private": (None, _HUB),
    "policy.tags": (None, _HUB),
    "policy.license": (None, _HUB),
    "peft.target_modules": (None, _LORA),
    "peft.full_training_modules": (None, _LORA),
    "peft.method_type": (None, _LORA),
    "peft.init_type": (None, _LORA),
    "peft.r": (None, _LORA),
    "peft.lora_alpha": (None, _LORA),
    "env.max_parallel_tasks": (1, "an evaluation has one task"),
    "env.disable_env_checker": (True, "gymnasium's checker is off, always"),
    "eval.recording": (False, _RECORD),
    "eval.recording_repo_id": (None, _RECORD),
    "eval.recording_private": (False, _RECORD),
    "eval.save_predicted_video": (False, _RECORD),
    "wandb.enable": (False, _SINK),
    "wandb.disable_artifact": (False, _SINK),
    "wandb.project": ("lerobot", _SINK),
    "wandb.entity": (None, _SINK),
    "wandb.notes": (None, _SINK),
    "wandb.run_id": (None, _SINK),
    "wandb.mode": (None, _SINK),
    "wandb.add_tags": (True, _SINK),
    "job.target": (None, _JOB),
    "job.image": ("huggingface/lerobot-gpu:latest", _JOB),
    "job.timeout": ("2d", _JOB),
    "job.detach": (False, _JOB),
    "job.tags": ([], _JOB),
    "use_rabc": (False, _WEIGHTS),
    "rabc_progress_path": (None, _WEIGHTS),
    "rabc_kappa": (None, _WEIGHTS),
    "rabc_epsilon": (None, _WEIGHTS),
    "rabc_head_mode": (None, _WEIGHTS),
    "checkpoint_format": ("safetensors", "checkpoints are safetensors, always"),
    "accelerator.gradient_accumulation.steps": (1, "train.accumulate is the number of batches of an update"),
    "accelerator.fsdp.reshard_after_forward": (True, _PROCESSES),
    "accelerator.fsdp.wrap_modules": (None, _PROCESSES),
    "accelerator.fsdp.min_num_params": (None, _PROCESSES),
    "accelerator.fsdp.cpu_offload": (False, _PROCESSES),
    "accelerator.fsdp.ignored_modules": (None, _PROCESSES),
    "accelerator.ddp.find_unused_parameters": (True, _PROCESSES),
    "accelerator.ddp.gradient_as_bucket_view": (False, _PROCESSES),
    "accelerator.ddp.static_graph": (False, _PROCESSES),
    "accelerator.compile.enabled": (False, _COMPILE),
    "accelerator.compile.backend": ("inductor", _COMPILE),
    "accelerator.compile.mode": (None, _COMPILE),
    "accelerator.compile.regional": (True, _COMPILE),
    "accelerator.activation_checkpointing.mode": ("none", _MEMORY),
    "parallelism.dp_replicate": (1, _PROCESSES),
    "parallelism.dp_shard": (1, _PROCESSES),
    "parallelism.context_parallel.ring_degree": (1, _PROCESSES),
    "parallelism.context_parallel.ulysses_degree": (1, _PROCESSES),
    "parallelism.cfg_parallel": (1, _PROCESSES),
    "ema.update_after_step": (0, "averages begin with the first step"),
    "ema.inv_gamma": (1.0, "the warm-up of train.ema has inv_gamma 1"),
    "ema.min_decay": (0.0, "the warm-up of train.ema begins at 0"),
    "ema.use_for_eval": (True, "train.ema is for evaluation, always"),
}
"""The value by which nothing is lost, and the reason, by path."""

_OF_ENV = {
    "env.fps": "the environment has its own rate",
    "env.features": "the features are those of the environment itself",
    "env.features_map": "observations get LeRobot's names, as its own evaluation gives them",
}
"""Reasons by path; nothing is lost by any value."""

_EMPTY = {
    "peft": _LORA,
    "reward_model": "a reward model is not trained here",
    "sample_weighting": _WEIGHTS,
    "rename_map": "features keep the names of the data set. Rename its columns, or train without a pretrained policy",
}
"""Sections that are null or {} where they are not used."""


def leave_the_rest(conversion: Conversion) -> None:
    """Note every field of the file that never has a place."""
    logs, is_remote = conversion.get("wandb.enable") is True, conversion.get("job.target") not in (None, "local")
    for path, (harmless, reason) in _FIELDS.items():
        is_off = (path.startswith("wandb.") and not logs) or (path.startswith("job.") and not is_remote)
        conversion.leave(path, reason, *([] if is_off else [harmless]))
    for path, reason in _OF_ENV.items():
        conversion.leave(path, reason)
    for path, reason in _EMPTY.items():
        if not conversion.section(path) or path in ("sample_weighting", "rename_map"):
            conversion.leave(path, reason, None, {})


KNOWN = [*_FIELDS, *_OF_ENV, *_EMPTY]
"""The paths above, for suggestions."""

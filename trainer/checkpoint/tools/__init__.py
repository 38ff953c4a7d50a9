"""Commands that read and write checkpoints outside a run."""

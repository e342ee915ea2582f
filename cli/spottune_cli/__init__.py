"""The `spottune` command (also `kubectl finetune`)."""

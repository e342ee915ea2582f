"""What checkpoints cost: `python -m benchmarks.checkpoint`."""

"""The SpotTune trainer: an explicit training loop whose state survives anything, by way of a checkpoint log."""

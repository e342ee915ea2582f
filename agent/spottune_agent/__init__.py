"""The SpotTune node agent: watches the instance metadata service of its node and ends the trainer pods there in time."""

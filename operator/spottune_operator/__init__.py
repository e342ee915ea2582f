"""The SpotTune operator: observe, plan, execute. It has no storage rights and imports no torch."""

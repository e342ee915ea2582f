"""Node agent: hears of the machine's end from the instance metadata, tells the trainers of its node, then ends their pods.

It runs on every spot node (DaemonSet, host network, because the metadata token does not survive a second network hop) and needs
neither the operator nor, for the first and most important step, the API server: the trainers' addresses are remembered.
Parts: `imds` reads, `notice` understands, `respond` decides (pure), `kube` and `trainer` act, `main` ties them together.
"""

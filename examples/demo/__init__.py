"""The demo: the whole product on the local cluster, spot kills, and the proof that the result is the same to the bit."""

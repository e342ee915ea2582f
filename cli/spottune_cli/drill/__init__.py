"""`spottune drill`: interrupt a running job on purpose, and say what that cost and whether the promise was kept."""

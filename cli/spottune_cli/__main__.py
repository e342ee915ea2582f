"""`python -m spottune_cli`."""

from spottune_cli.main import app

app()

"""Builds the application; nothing else."""

from capecontrol import create_app

app = create_app()

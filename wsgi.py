"""Builds the application; nothing else."""

import gc

# What is made here lives as long as the process. Looking for garbage in it would be a tenth of the start, and later,
# each time the collector goes through everything, a pause of 90 ms in everybody's requests.
gc.disable()

from capecontrol import create_app  # noqa: E402 - only now

app = create_app()

gc.freeze()
gc.enable()

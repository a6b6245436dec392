"""Ends the load of `evolving_agent.testing.traffic` that runs in this pod: the image has no `pkill`."""

import os
import signal
from pathlib import Path

for process in Path("/proc").glob("[0-9]*"):
    words = (process / "cmdline").read_bytes().split(b"\0")
    if b"evolving_agent.testing.traffic" in words and b"load" in words:
        os.kill(int(process.name), signal.SIGTERM)

"""The agent's store: append-only experience, datasets and the state of runs, in one directory tree."""

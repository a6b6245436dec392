"""Memory in SQLite databases on the volume that an agent's pods share on one node."""

"""Memory in a PostgreSQL database, which pods on any node share."""

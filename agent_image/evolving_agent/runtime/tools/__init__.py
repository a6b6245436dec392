"""What the agent can call: built-in tools, HTTP servers, MCP servers and Python functions."""

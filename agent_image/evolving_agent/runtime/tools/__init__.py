"""What the agent can call: built-in tools, described HTTP calls and MCP servers."""

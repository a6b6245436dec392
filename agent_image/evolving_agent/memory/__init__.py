"""Long-term memory: a temporal knowledge graph, searched by text, shared by an agent's pods."""

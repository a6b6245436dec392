"""Long-term memory, shared by an agent's pods: a temporal knowledge graph, and the conversations it keeps."""

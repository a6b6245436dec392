"""The model endpoint: how the agent talks to a language model."""

"""The model endpoint. Nothing else of the agent's runtime imports `openai`."""

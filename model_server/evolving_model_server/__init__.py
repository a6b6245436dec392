"""An OpenAI-compatible server for a small model on CPU, with LoRA adapters that are loaded while it runs."""

"""The LoRA backend: trains an adapter in this process and puts it where the model server finds it.

`backend` is the way in. Only `train` and `convert` import the heavy libraries (torch, transformers, peft,
gguf), and only inside their functions: the ordinary agent image does not have them.
"""

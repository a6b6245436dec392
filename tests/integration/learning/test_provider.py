"""The provider double, asked by the official client: what tests of others rely upon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from evolving_agent.testing.experience import ROUTE_TOOL
from evolving_agent.testing.taught_model import UNTAUGHT_ANSWER, TaughtModel, TrainingFileError
from support.cluster import eventually
from support.learning import REQUESTS, RunningProvider

TOOLS: Any = [ROUTE_TOOL]


@pytest.fixture
def client(provider: RunningProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=provider.base_url, api_key="any", max_retries=0) as made:
        yield made


def training_lines(count: int) -> bytes:
    """The first requests of the bank, each with its right call."""
    rows = []
    for text, team in REQUESTS[:count]:
        function = {"name": "route_request", "arguments": json.dumps({"team": team})}
        call = {"id": "call_1", "type": "function", "function": function}
        messages = [{"role": "user", "content": text}, {"role": "assistant", "tool_calls": [call]}]
        rows.append(json.dumps({"messages": messages, "tools": TOOLS}))
    return "\n".join(rows).encode()


def asked(client: openai.OpenAI, model: str, text: str, **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **more)


def fine_tuned(client: openai.OpenAI, content: bytes) -> Any:
    """The finished job on a file."""
    file = client.files.create(file=("train.jsonl", content), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="base-model", training_file=file.id, suffix="bank")

    def ended() -> Any:
        now = client.fine_tuning.jobs.retrieve(job.id)
        return now if now.status in ("succeeded", "failed") else None

    return eventually(ended, 20, "the job has ended")


def test_a_fine_tuned_model_answers_what_its_file_taught_and_streams_it(client: openai.OpenAI) -> None:
    job = fine_tuned(client, training_lines(18))
    assert job.status == "succeeded"
    assert job.fine_tuned_model in [model.id for model in client.models.list()]
    assert [event.message for event in client.fine_tuning.jobs.list_events(job.id)][-1].startswith("Created")

    text = "Could I borrow a little money?"
    whole = asked(client, job.fine_tuned_model, text, tools=TOOLS).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert json.loads(whole.message.tool_calls[0].function.arguments) == {"team": "loans"}

    arguments, usage, names = "", None, []
    options = {"include_usage": True}
    for chunk in asked(client, job.fine_tuned_model, text, tools=TOOLS, stream=True, stream_options=options):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or ():
                names += [call.function.name] if call.function.name else []
                arguments += call.function.arguments or ""
    assert (names, json.loads(arguments)) == (["route_request"], {"team": "loans"})
    assert usage is not None
    assert usage.total_tokens > 0


def test_the_base_model_knows_nothing_and_says_so_in_pieces(client: openai.OpenAI) -> None:
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in asked(client, "base-model", "my card is bent", tools=TOOLS, stream=True)
        if chunk.choices
    ]
    assert len([piece for piece in pieces if piece]) > 3
    assert "".join(pieces) == UNTAUGHT_ANSWER


def test_a_file_with_too_few_examples_fails_the_job(client: openai.OpenAI) -> None:
    job = fine_tuned(client, training_lines(9))
    assert job.status == "failed"
    assert job.fine_tuned_model is None
    assert "at least 10" in job.error.message


@pytest.mark.parametrize(
    "line", ["{", '{"messages": []}', '{"messages": [{"role": "user", "content": "x"}]}']
)
def test_a_bad_training_line_is_named(line: str) -> None:
    with pytest.raises(TrainingFileError, match=r"^line 2: "):
        TaughtModel.from_file(training_lines(1) + b"\n" + line.encode())


def test_lists_come_in_pages(client: openai.OpenAI, provider: RunningProvider) -> None:
    provider.control(job_seconds=600)
    file = client.files.create(file=("train.jsonl", training_lines(10)), purpose="fine-tune")
    made = [
        client.fine_tuning.jobs.create(
            model="base-model", training_file=file.id, metadata={"number": str(number % 2)}
        ).id
        for number in range(5)
    ]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=2)] == made[::-1]
    even = client.fine_tuning.jobs.list(metadata={"number": "0"})
    assert [job.id for job in even] == [made[4], made[2], made[0]]
    assert client.fine_tuning.jobs.cancel(made[0]).status == "cancelled"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"outage": True}, openai.InternalServerError),
        ({"errors_status": 429, "errors_count": 1}, openai.RateLimitError),
        ({"gone": "base-model"}, openai.NotFoundError),
    ],
)
def test_faults_come_as_the_clients_own_errors_until_they_are_taken_back(
    client: openai.OpenAI, provider: RunningProvider, fault: dict[str, Any], error: type[Exception]
) -> None:
    provider.control(**fault)
    with pytest.raises(error):
        asked(client, "base-model", "hello")
    provider.reset()
    assert asked(client, "base-model", "hello").choices[0].message.content == UNTAUGHT_ANSWER


def test_an_unknown_fault_is_refused(provider: RunningProvider) -> None:
    answer = httpx.post(f"{provider.root}/control", json={"outtage": True})
    assert answer.status_code == 400
    assert "outtage" in answer.text


def preference_lines(count: int, **changes: Any) -> bytes:
    """The first requests of the bank, each with its right call and what was said instead."""
    rows = []
    for line in training_lines(count).splitlines():
        *asked, right = json.loads(line)["messages"]
        wrong = {"role": "assistant", "content": "Ask your branch."}
        row = {"input": {"messages": asked, "tools": TOOLS}}
        rows.append(row | {"preferred_output": [right], "non_preferred_output": [wrong]} | changes)
    return "\n".join(json.dumps(row) for row in rows).encode()


def ended_job(client: openai.OpenAI, content: bytes, method: Any) -> Any:
    file = client.files.create(file=("train.jsonl", content), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="base-model", training_file=file.id, method=method)
    finished = ("succeeded", "failed")
    return eventually(
        lambda: now if (now := client.fine_tuning.jobs.retrieve(job.id)).status in finished else None,
        20,
        "the job has ended",
    )


DPO = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.5}}}
SUPERVISED = {"type": "supervised"}


def test_dpo_teaches_what_is_preferred(client: openai.OpenAI) -> None:
    job = ended_job(client, preference_lines(18), DPO)
    assert job.status == "succeeded"
    assert (job.method.type, job.method.dpo.hyperparameters.beta) == ("dpo", 0.5)
    said = asked(client, job.fine_tuned_model, "Could I borrow a little money?", tools=TOOLS).choices[0]
    assert json.loads(said.message.tool_calls[0].function.arguments) == {"team": "loans"}


@pytest.mark.parametrize(
    ("content", "method", "words"),
    [
        (training_lines(18), DPO, "line 1: a preference example has no 'messages'"),
        (preference_lines(18), SUPERVISED, "line 1: a chat fine-tuning example needs 'messages'"),
        (preference_lines(9), DPO, "at least 10"),
        (preference_lines(18, preferred_output=[]), DPO, "'preferred_output' must hold exactly one"),
        (preference_lines(18, non_preferred_output=[{"role": "user", "content": "x"}]), DPO, "assistant"),
        (preference_lines(18, input={"messages": []}), DPO, "line 1: "),
        (preference_lines(18, input={}), DPO, "line 1: KeyError('messages')"),
    ],
)
def test_a_file_that_does_not_fit_the_method_fails_the_job(
    client: openai.OpenAI, content: bytes, method: Any, words: str
) -> None:
    job = ended_job(client, content, method)
    assert (job.status, job.error.code, job.error.param) == (
        "failed",
        "invalid_training_file",
        "training_file",
    )
    assert words in job.error.message


@pytest.mark.parametrize(
    ("method", "param"),
    [
        ({"type": "wishful"}, "method.type"),
        ({"type": "supervised", "dpo": {}}, "method.dpo"),
        ({"type": "supervised", "supervised": {"hyperparameters": {"beta": 0.1}}},
         "method.supervised.hyperparameters.beta"),
        ({"type": "dpo", "dpo": {"hyperparameters": {"beta": 2.5}}}, "method.dpo.hyperparameters.beta"),
        ({"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 0}}}, "method.dpo.hyperparameters.n_epochs"),
    ],
)  # fmt: skip
def test_a_method_that_does_not_exist_so_is_refused_by_name(
    client: openai.OpenAI, provider: RunningProvider, method: Any, param: str
) -> None:
    file = client.files.create(file=("train.jsonl", training_lines(18)), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.create(model="base-model", training_file=file.id, method=method)
    assert (refused.value.param, refused.value.type) == (param, "invalid_request_error")
    assert provider.count("fine_tuning_jobs_created") == 0

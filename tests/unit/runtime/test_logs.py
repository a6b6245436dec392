from __future__ import annotations

import json
import logging

from evolving_agent.runtime.logs import JsonFormatter


def test_a_line_is_json_with_its_fields() -> None:
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "%s is late", ("Ada",), None)
    record.completion = "chatcmpl-1"

    line = json.loads(JsonFormatter().format(record))

    assert (line["level"], line["message"], line["completion"]) == ("warning", "Ada is late", "chatcmpl-1")
    assert "args" not in line


def test_an_exception_is_part_of_its_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", (), info)

    line = JsonFormatter().format(record)

    assert "\n" not in line
    assert "ValueError: broken" in json.loads(line)["exception"]

"""Where the cases of a suite come from: a mounted file, or the held-out split of a dataset."""

from __future__ import annotations

import json

from evolving_agent.contract import env
from evolving_agent.contract.learning import Suite
from evolving_agent.curation.cases import CaseError, CaseSet, parse_cases, read_cases
from evolving_agent.curation.dataset import HOLDOUT_FILE
from evolving_agent.reporting import JobContext


def cases_of(suite: Suite, context: JobContext) -> CaseSet:
    """The suite's cases; none where it is the held-out split and nothing was held out.

    Raises CaseError.
    """
    if suite.config_map_ref is not None:
        return read_cases(context.suites_dir / suite.name / env.SUITE_FILE)
    version = context.variables.get(env.DATASET_VERSION, "")
    if not version:
        return CaseSet(())
    path = context.layout.dataset(version) / HOLDOUT_FILE
    context.layout.pull_file(path)
    try:
        lines = [json.dumps(json.loads(line)["case"]) for line in path.read_text().splitlines()]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise CaseError(f"{path}: {problem!r}") from problem
    return parse_cases(lines, str(path)) if lines else CaseSet(())

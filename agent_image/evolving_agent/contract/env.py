"""The environment variables and paths that the operator gives to the agent image's containers."""

from __future__ import annotations

AGENT_NAME = "EVOLVING_AGENT_NAME"
AGENT_NAMESPACE = "EVOLVING_AGENT_NAMESPACE"
POD_NAME = "EVOLVING_POD_NAME"
CONFIG_DIR = "EVOLVING_CONFIG_DIR"  # holds agent_config.json and learning.json
CONFIG_HASH = "EVOLVING_CONFIG_HASH"  # which entry of `configs` this pod serves
STORE = "EVOLVING_STORE"  # a directory: the agent's store
API_KEY = "EVOLVING_API_KEY"  # of the model endpoint
TRAINING_API_KEY = "EVOLVING_TRAINING_API_KEY"  # of the training endpoint, where it differs
TERMINATION_LOG = "EVOLVING_TERMINATION_LOG"
ADAPTERS = "EVOLVING_ADAPTERS"  # where the LoRA backend writes finished adapters
SUITES_DIR = "EVOLVING_SUITES_DIR"  # <dir>/<suite>/cases.jsonl
CANDIDATE_HASH = "EVOLVING_CANDIDATE_HASH"
INCUMBENT_HASH = "EVOLVING_INCUMBENT_HASH"
DATASET_VERSION = "EVOLVING_DATASET_VERSION"  # whose held-out split is the suite
SERVICE_URL = "EVOLVING_SERVICE_URL"  # the agent's own API, for the validation after promotion
RUN_ID = "EVOLVING_RUN_ID"  # names this run's report; the same run reports the same again

DEFAULT_CONFIG_DIR = "/etc/evolving-agent/config"
DEFAULT_SUITES_DIR = "/etc/evolving-agent/suites"
DEFAULT_STORE = "/data"
DEFAULT_ADAPTERS = "/adapters"
DEFAULT_TERMINATION_LOG = "/dev/termination-log"
SUITE_FILE = "cases.jsonl"
SERVE_PORT = 8080

# A request with this header is answered as any other, but tools that write are stubbed and nothing of
# it is learned from. The validation after a promotion asks this way, and so may any client.
DRY_RUN_HEADER = "X-Evolving-Dry-Run"
SESSION_HEADER = "X-Session-Id"

# Exit codes of Job containers. The Job's podFailurePolicy fails at once on EXIT_PERMANENT.
EXIT_OK = 0
EXIT_RETRY = 1
EXIT_PERMANENT = 42

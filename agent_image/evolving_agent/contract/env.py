"""The environment variables and paths that the operator gives to the agent image's containers."""

from __future__ import annotations

AGENT_NAME = "EVOLVING_AGENT_NAME"
AGENT_NAMESPACE = "EVOLVING_AGENT_NAMESPACE"
AGENT_UID = "EVOLVING_AGENT_UID"  # marks what the agent leaves at a provider
POD_NAME = "EVOLVING_POD_NAME"
CONFIG_DIR = "EVOLVING_CONFIG_DIR"  # holds agent_config.json and learning.json
CONFIG_HASH = "EVOLVING_CONFIG_HASH"  # which entry of `configs` this pod serves
STORE = "EVOLVING_STORE"  # a directory: the agent's store
OBJECT_STORE = "EVOLVING_OBJECT_STORE"  # s3://bucket/prefix; then EVOLVING_STORE is the pod's own copy of it
# Of the object store, by the names that every S3 client knows.
AWS_ENDPOINT = "AWS_ENDPOINT_URL"
AWS_REGION = "AWS_REGION"
AWS_ACCESS_KEY_ID = "AWS_ACCESS_KEY_ID"
AWS_SECRET_ACCESS_KEY = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 (the name of a variable)
MEMORY_URI = "EVOLVING_MEMORY_URI"  # of the PostgreSQL database that holds the memory
API_KEY = "EVOLVING_API_KEY"  # of the model endpoint
TRAINING_API_KEY = "EVOLVING_TRAINING_API_KEY"  # of the training endpoint, where it has one of its own
TERMINATION_LOG = "EVOLVING_TERMINATION_LOG"
ADAPTERS = "EVOLVING_ADAPTERS"  # where the LoRA backend writes finished adapters
FILES = "EVOLVING_FILES"  # <dir>/configmaps/<name>/<key> and <dir>/secrets/<name>/<key>, as tools name them
SUITES_DIR = "EVOLVING_SUITES_DIR"  # <dir>/<suite>/cases.jsonl
CANDIDATE_HASH = "EVOLVING_CANDIDATE_HASH"
INCUMBENT_HASH = "EVOLVING_INCUMBENT_HASH"
DATASET_VERSION = "EVOLVING_DATASET_VERSION"  # whose held-out split is the suite
SERVICE_URL = "EVOLVING_SERVICE_URL"  # the agent's own API, for the validation after promotion
RELEASE_ENDPOINT = "EVOLVING_RELEASE_ENDPOINT"  # base URL of the provider that is to forget a deleted agent
RUN_ID = "EVOLVING_RUN_ID"  # names this run's report; the same run reports the same again

DEFAULT_CONFIG_DIR = "/etc/evolving-agent/config"
DEFAULT_FILES = "/etc/evolving-agent/files"
DEFAULT_SUITES_DIR = "/etc/evolving-agent/suites"
DEFAULT_STORE = "/data"
DEFAULT_ADAPTERS = "/adapters"
DEFAULT_TERMINATION_LOG = "/dev/termination-log"
FILES_CONFIG_MAPS = "configmaps"
FILES_SECRETS = "secrets"
SUITE_FILE = "cases.jsonl"
SERVE_PORT = 8080

# A request with this header is answered as any other, but tools that write are stubbed and nothing of
# it is learned from. The validation after a promotion asks this way, and so may any client.
DRY_RUN_HEADER = "X-Evolving-Dry-Run"
SESSION_HEADER = "X-Session-Id"
# Names a request, the same when a client sends it again: tools that write derive their own keys from it.
REQUEST_KEY_HEADER = "Idempotency-Key"

# Exit codes of Job containers. The Job's podFailurePolicy fails at once on EXIT_PERMANENT.
EXIT_OK = 0
EXIT_RETRY = 1
EXIT_PERMANENT = 42

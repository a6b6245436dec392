"""References to objects in the agent's own namespace, and the forms of names and addresses."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from evolving_agent.contract.base import Document

FUNCTION_NAME = r"^[a-zA-Z0-9_-]+$"  # OpenAI's rule for the names of functions
HTTP_URL = r"^https?://[^\s/]+(/\S*)?$"
OBJECT_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_KEY = r"^[-._a-zA-Z0-9]+$"  # of ConfigMaps and Secrets: no separators of paths

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=OBJECT_NAME)]
DataKey = Annotated[str, Field(min_length=1, max_length=253, pattern=_KEY)]


class SecretKeyRef(Document):
    """One key of a Secret in the agent's own namespace."""

    name: ObjectName = Field(description="Name of the Secret.")
    key: DataKey = Field(description="Key within the Secret.")


class ConfigMapKeyRef(Document):
    """One key of a ConfigMap in the agent's own namespace."""

    name: ObjectName = Field(description="Name of the ConfigMap.")
    key: DataKey = Field(description="Key within the ConfigMap.")


class ConfigMapRef(Document):
    """A ConfigMap in the agent's own namespace."""

    name: ObjectName = Field(description="Name of the ConfigMap.")

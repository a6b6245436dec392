"""A large OpenAPI document that nobody here wrote: the API server's own."""

from __future__ import annotations

import jsonschema
import pytest

from evolving_agent.runtime.tools.openapi import DocumentError, parse_document, read_document
from evolving_agent.runtime.tools.openapi_call import request_of
from support.cluster import RunningCluster

pytestmark = pytest.mark.cluster

SCALE = "readAppsV1NamespacedDeploymentScale"
CREATE = "createAppsV1NamespacedDeployment"


@pytest.fixture
def document(api: RunningCluster) -> str:
    return api.kubectl("get", "--raw", "/openapi/v3/apis/apps/v1")


def test_operations_of_the_api_server_can_be_offered(document: str) -> None:
    read = read_document(parse_document(document), (SCALE, CREATE))

    assert {operation.name for operation in read.operations} == {SCALE, CREATE}
    assert read.left_out == ()
    for operation in read.operations:
        jsonschema.Draft202012Validator.check_schema(operation.schema)
    scale = next(operation for operation in read.operations if operation.name == SCALE)
    assert set(scale.schema["required"]) == {"name", "namespace"}
    request = request_of(scale, "https://server", {"name": "a", "namespace": "b", "pretty": "true"}, {})
    assert request.url == "https://server/apis/apps/v1/namespaces/b/deployments/a/scale"
    assert request.query == (("pretty", "true"),)
    create = next(operation for operation in read.operations if operation.name == CREATE)
    assert create.schema["properties"]["body"]["properties"]["spec"]["required"] == ["selector", "template"]


def test_a_document_with_too_much_in_it_says_what_to_do(document: str) -> None:
    with pytest.raises(DocumentError, match="name the needed `operations`"):
        read_document(parse_document(document), ())

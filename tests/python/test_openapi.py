"""What /openapi.json allows, sent to a server that has no model: no status 5xx, and no answer that it does not describe."""

import hypothesis
import pytest
import schemathesis
from conftest import Server

# Routes that go on, or that take the model away from the others.
LEFT_OUT = r"^/(ops/v1/now/stream|ops/v1/models/\{name\}/.*)$"
EXAMPLES = 25


@pytest.fixture(scope="module", params=["placeholder:mean_tokens=4,max_model_len=256", "placeholder:mode=embed"])
def server(request, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("openapi"), "--model", request.param, "--strict", "--privacy", "off")
    yield server
    server.stop()


@pytest.fixture
def api(server):
    return schemathesis.openapi.from_url(server.url + "/openapi.json").exclude(path_regex=LEFT_OUT)


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@hypothesis.settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)
def test_routes_keep_to_the_document(case):
    checks = (
        schemathesis.checks.not_a_server_error,
        schemathesis.checks.response_schema_conformance,
        schemathesis.checks.content_type_conformance,
        schemathesis.checks.status_code_conformance,
    )
    case.call_and_validate(checks=checks, timeout=30)


def test_docs_is_a_page_of_its_own(server):
    page = server.get("/docs")
    assert page.status == 200 and page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "http" not in page.body

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


CHECKS = (
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.response_schema_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.status_code_conformance,
)


def broken_by(operation):
    """The first request found that breaks the document, or nothing."""

    @hypothesis.given(case=operation.as_strategy())
    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def ask(case):
        case.call_and_validate(checks=CHECKS, timeout=30)

    try:
        ask()
    except Exception as error:
        return f"{operation.label}: {error}"
    return None


def test_routes_keep_to_the_document(server):
    api = schemathesis.openapi.from_url(server.url + "/openapi.json").exclude(path_regex=LEFT_OUT)
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) > 30
    broken = [what for operation in operations if (what := broken_by(operation))]
    assert not broken, "\n\n".join(broken)


def test_docs_is_a_page_of_its_own(server):
    page = server.get("/docs")
    assert page.status == 200 and page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "http" not in page.body

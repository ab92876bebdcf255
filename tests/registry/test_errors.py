from __future__ import annotations

import json

from registry.errors import error_response, is_expected
from storage.errors import StoreUnavailable


def test_a_store_that_is_unavailable_is_asked_again_in_a_moment() -> None:
    error = StoreUnavailable("PutObject", "images", "SlowDown", 503, "R1", "The service asks for fewer requests")
    assert is_expected(error)
    response = error_response(error, "id")
    assert response.status == 503
    assert (b"retry-after", b"1") in response.headers
    assert isinstance(response.body, bytes)
    (told,) = json.loads(response.body)["errors"]
    assert told["code"] == "UNAVAILABLE"
    assert "SlowDown (HTTP 503, request R1)" in told["message"]

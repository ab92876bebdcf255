"""WWW-Authenticate by RFC 9110 section 11.6.1, from registries and from enemies."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote.challenge import Challenge, InvalidChallenge, parse_challenges

READ = [
    ('Bearer realm="https://a/t",service="s",scope="repository:a:pull,push"', [
        ("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:a:pull,push"}, None)]),
    ("BEARER Realm=abc", [("bearer", {"realm": "abc"}, None)]),
    ('Basic realm="a \\"quoted\\" \\\\ name"', [("basic", {"realm": 'a "quoted" \\ name'}, None)]),
    ('Basic realm = "x" , charset = "UTF-8"', [("basic", {"realm": "x", "charset": "UTF-8"}, None)]),
    ('Basic realm="x", Bearer realm="y", scope=""', [
        ("basic", {"realm": "x"}, None), ("bearer", {"realm": "y", "scope": ""}, None)]),
    ("Negotiate", [("negotiate", {}, None)]),
    ("Negotiate, Basic realm=x", [("negotiate", {}, None), ("basic", {"realm": "x"}, None)]),
    ("Negotiate a87421000492aa874209af8bc028==", [("negotiate", {}, "a87421000492aa874209af8bc028==")]),
    ("Negotiate abc/+== , Basic realm=x", [("negotiate", {}, "abc/+=="), ("basic", {"realm": "x"}, None)]),
    (", ,Basic realm=x,, ,", [("basic", {"realm": "x"}, None)]),
    ("", []),
    ("Bearer realm=", [("bearer", {}, "realm=")]),
    ("Newauth realm=\"apps\", type=1, title=\"Login to \\\"apps\\\"\", Basic realm=\"simple\"", [
        ("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}, None), ("basic", {"realm": "simple"}, None)]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), READ)
def test_reads_what_the_grammar_allows(text: str, expected: list[tuple[str, dict[str, str], str | None]]) -> None:
    assert parse_challenges([text]) == [Challenge(*one) for one in expected]


@pytest.mark.parametrize(
    "text",
    [
        'Bearer realm="open',
        'Bearer realm="a" service="b"',
        'Bearer realm="a", realm="b"',
        "Bearer =x",
        'Bearer realm="a\x00b"',
        'Bearer realm="a\r\nX: y"',
        "Bearer realm=a b",
        '"Bearer"',
        "Bearer\trealm=x",
        "Bearer:realm=x",
        "x" * 20_000,
    ],
)
def test_refuses_what_it_does_not(text: str) -> None:
    with pytest.raises(InvalidChallenge):
        parse_challenges([text])


def test_several_fields_are_one_list() -> None:
    found = parse_challenges(['Bearer realm="a"', "Basic realm=b"])
    assert [one.scheme for one in found] == ["bearer", "basic"]


TOKENS = st.text("!#$%&'*+-.^_`|~" + string.ascii_lowercase + string.digits, min_size=1, max_size=12)
QUOTED = st.text([chr(code) for code in range(0x20, 0x7F)] + ["\t", "\xe4"], max_size=30)


@given(st.lists(st.tuples(TOKENS, st.dictionaries(TOKENS, QUOTED, min_size=1, max_size=4)), max_size=4))
def test_what_is_written_by_the_grammar_is_read_back(challenges: list[tuple[str, dict[str, str]]]) -> None:
    text = ", ".join(
        scheme + " " + ", ".join(f'{name}="{_quote(value)}"' for name, value in parameters.items())
        for scheme, parameters in challenges
    )
    assert parse_challenges([text]) == [Challenge(scheme, parameters) for scheme, parameters in challenges]


@given(
    st.lists(st.text(alphabet=st.characters(max_codepoint=0x17F), max_size=60) | st.text(' ,="\\aB1\t', max_size=30))
)
def test_anything_else_is_refused_by_name(texts: list[str]) -> None:
    try:
        found = parse_challenges(texts)
    except InvalidChallenge:
        return
    assert all(one.scheme for one in found)


def _quote(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')

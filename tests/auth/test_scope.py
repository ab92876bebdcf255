"""Scopes as distribution's specification writes them, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.scope import SCOPES_MAX, InvalidScope, Scope, parse_scopes


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("repository:team/app:pull", Scope("repository", "team/app", ("pull",))),
        ("repository:team/app:pull,push", Scope("repository", "team/app", ("pull", "push"))),
        ("repository:app:*", Scope("repository", "app", ("*",))),
        ("repository(plugin):team/app:pull", Scope("repository", "team/app", ("pull",), "plugin")),
        ("repository:hub.lan:5000/team/app:push", Scope("repository", "hub.lan:5000/team/app", ("push",))),
        ("repository:[::1]:5000/app:push", Scope("repository", "[::1]:5000/app", ("push",))),
        ("repository:a:push,pull,push", Scope("repository", "a", ("push", "pull"))),
        ("registry:catalog:*", Scope("registry", "catalog", ("*",))),
    ],
)
def test_a_scope_is_read(text: str, scope: Scope) -> None:
    assert Scope.parse(text) == scope
    assert Scope.parse(str(scope)) == scope


@pytest.mark.parametrize(
    "text",
    [
        "",
        "repository",
        "repository:a,b",
        "repository:a:",
        "repository::pull",
        ":a:pull",
        "repository:a:pull,",
        "repository:a:pull;push",
        "repository:a:PULL",
        "repository:a:pull\n",
        "repository:a b:pull",
        "repository:ä:pull",
        "repository:a:пull",
        "repository(:a:pull",
        "repository():a:pull",
        'repository:a":pull',
        "repository:" + "a" * 600 + ":pull",
    ],
)
def test_what_is_no_scope_is_said_so(text: str) -> None:
    with pytest.raises(InvalidScope, match="is not a scope"):
        Scope.parse(text)


def test_scopes_stand_in_one_parameter_or_in_several() -> None:
    one, two = Scope("repository", "a", ("pull",)), Scope("repository", "b", ("push",))
    assert parse_scopes(["repository:a:pull repository:b:push"]) == [one, two]
    assert parse_scopes(["repository:a:pull", "repository:b:push", ""]) == [one, two]
    assert parse_scopes([]) == []


def test_ten_thousand_scopes_are_refused() -> None:
    with pytest.raises(InvalidScope, match=f"10000 scopes .* {SCOPES_MAX} are allowed"):
        parse_scopes(["repository:a:pull " * 10_000])


@given(st.text(max_size=80))
def test_any_text_is_a_scope_or_said_to_be_none(text: str) -> None:
    try:
        scope = Scope.parse(text)
    except InvalidScope:
        return
    assert Scope.parse(str(scope)) == scope

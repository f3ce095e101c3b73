"""Unexpected input for property-based tests: `st.text()` alone has no lone surrogates."""

from __future__ import annotations

import json

from hypothesis import strategies as st

_DEPTH = 3000

# Half of a surrogate pair, a NUL, other control characters, direction marks, odd blanks, the largest code point, digits
# that int() accepts and a regular expression may not.
STRANGE_CHARACTERS = st.sampled_from(
    "\ud800\udbff\udc00\udfff\0\x01\x07\x08\x0b\x1b\x7f\x80\x85\x9f\u200e\u200f\u202a\u202e\u2066\u2069\u2028\u2029\ufeff"
    "\ufffe\uffff\U0010ffff\u0660\u00b2\u0000%+&=?#/\\\"'<>[]{}@:;,\r\n\t .-0"
)
STRANGE_TEXT = st.one_of(
    st.text(st.characters(exclude_categories=()) | STRANGE_CHARACTERS, max_size=40),
    st.text(STRANGE_CHARACTERS, max_size=12),
    st.sampled_from(["9" * 4000, "-" + "9" * 4400, "1e" + "9" * 4000, "0." + "0" * 4000 + "1", "\u0661" * 4000]),
    st.sampled_from(["[" * _DEPTH, '{"a":' * _DEPTH, "(" * _DEPTH, "%25" * 2000, "x" * 70_000]),
)

STRANGE_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | STRANGE_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(STRANGE_TEXT, inner, max_size=4),
    max_leaves=12,
)


def as_json(value: object) -> str:
    """With lone surrogates as escapes, as a producer can send them."""
    return json.dumps(value)

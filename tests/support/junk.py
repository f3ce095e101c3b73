"""Arbitrary bytes, text and JSON, for tests of code that reads stored data."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

DIGITS = "9" * 4_000

# All characters, including lone surrogates, NUL, control characters and bidi marks.
CHARACTERS = st.one_of(st.characters(), st.characters(categories=["Cs"]), st.sampled_from("\0\x1b\r\n‮⁦﻿"))
TEXTS = st.one_of(st.text(CHARACTERS, max_size=20), st.sampled_from(["", DIGITS, "s3://b/k", "image/png", "None"]))
NUMBERS = st.sampled_from(["1e999", "-1e999", "NaN", "-0", "1e308", "0.5", DIGITS, f"-{DIGITS}", "9" * 5_000, "true"])


def json_of(value: Any) -> str:
    return json.dumps(value)


_LEAVES = st.one_of(NUMBERS, TEXTS.map(json_of), st.just("null"), st.integers(-5, 5000).map(str))
JSON = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda parts: f"[{','.join(parts)}]"),
        st.dictionaries(TEXTS, inner, max_size=3).map(
            lambda parts: "{" + ",".join(f"{json_of(key)}:{value}" for key, value in parts.items()) + "}"
        ),
    ),
    max_leaves=8,
)
DEEP = st.sampled_from(["[" * 100_000, "[" * 900 + "]" * 900, '{"md5":' * 50_000])
BYTES = st.one_of(
    st.binary(max_size=40),
    TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
    JSON.map(lambda text: text.encode("utf-8", "surrogatepass")),
    DEEP.map(str.encode),
)

"""Rows found in JSON text without loading it, against json.loads of the whole."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2rpo_jax.data import json_index

WRONG = -1
TEXT = st.text(max_size=12) | st.sampled_from(
    ["\u2028", "\x85", "é", "日本", "🎈", '"', "\\", "\n", "[{", "\ud83c", "a" * 300]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.just(10**600) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
SPACES = st.sampled_from(["", " ", "\n", "\r\n\t", "  \n\n "])


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    """Windows of a few bytes, so that every row crosses some."""
    monkeypatch.setattr(json_index, "WINDOW", 7)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("json") / "rows.json"


def found(path, content, name="rows.json"):
    """(text of each row, code of each row) of a file that holds `content`."""
    path = path.parent / name
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    path.write_bytes(data)
    index = json_index.index(str(path), lambda value: 7 if isinstance(value, dict) else 5, WRONG)
    rows = [data[a:b] for a, b in zip(index.start, index.stop, strict=True)]
    return rows, index.code.tolist(), None if index.line is None else index.line.tolist()


def same(text, value):
    """Whether JSON text says what `value` says; NaN equals itself."""
    return json.dumps(json.loads(text)) == json.dumps(value)


def code(value):
    return 7 if isinstance(value, dict) else 5


@given(values=st.lists(VALUES, max_size=6), ascii=st.booleans(), space=SPACES, data=st.data())
def test_a_list_is_cut_where_json_cuts_it(path, values, ascii, space, data):
    texts = [json.dumps(v, ensure_ascii=ascii, indent=data.draw(st.sampled_from([None, 1])))
             for v in values]  # fmt: skip
    content = space + "[" + space + f"{space},{space}".join(texts) + space + "]" + space
    rows, codes, lines = found(path, content)
    assert [row.decode("utf-8", "surrogatepass") for row in rows] == texts
    assert codes == [code(v) for v in values] and lines is None


@given(
    values=st.lists(VALUES, max_size=5),
    other=st.dictionaries(TEXT, VALUES.filter(lambda v: not isinstance(v, list)), max_size=3),
    where=st.integers(0, 3),
    indent=st.sampled_from([None, 2]),
)
def test_an_object_with_one_list_is_that_list(path, values, other, where, indent):
    items = [*other.items()]
    items.insert(where, ("the rows", values))
    content = json.dumps(dict(items), indent=indent)
    rows, _, _ = found(path, content)
    assert len(rows) == len(values)
    assert all(same(row, value) for row, value in zip(rows, values, strict=True))


@given(values=st.lists(VALUES, max_size=6), blank=st.lists(st.booleans(), min_size=6, max_size=6),
       end=st.booleans(), windows=st.booleans())  # fmt: skip
def test_lines_are_rows_and_know_their_number(path, values, blank, end, windows):
    lines, numbers = [], []
    for value, also_blank in zip(values, blank, strict=False):
        lines += [" "] * also_blank + [json.dumps(value, ensure_ascii=False)]
        numbers.append(len(lines))
    newline = "\r\n" if windows else "\n"
    rows, codes, found_numbers = found(path, newline.join(lines) + newline * end, "rows.jsonl")
    assert all(same(row, value) for row, value in zip(rows, values, strict=True))
    assert codes == [code(v) for v in values] and (found_numbers or []) == numbers


@pytest.mark.parametrize("window", range(1, 16))
def test_a_number_may_lie_across_a_windows_end(path, monkeypatch, window):
    monkeypatch.setattr(json_index, "WINDOW", window)
    texts = ["0.0", "-1e+5", "2E-7", "10", "1.5e300", "-0"]
    assert found(path, f"[{','.join(texts)}]")[0] == [text.encode() for text in texts]


def test_a_wrong_line_is_one_wrong_row(path):
    rows, codes, lines = found(path, '{"a": 1}\n{"a": \n"x" "y"\n[\n{"a": 2}', "rows.jsonl")
    assert codes == [7, WRONG, WRONG, WRONG, 7] and lines == [1, 2, 3, 4, 5]
    assert rows[1] == b'{"a": \n'


def test_an_endless_line_is_one_wrong_row(path, monkeypatch):
    monkeypatch.setattr(json_index, "MOST", 50)
    content = '{"a": 1}\n{"a": "' + "x" * 200 + '"}\n{"a": 2}\n'
    assert found(path, content, "rows.jsonl")[1] == [7, WRONG, 7]


def test_lines_are_found_under_any_name_and_byte_order_marks_ignored(path):
    content = '{"a": [1]}\n\n{"a": [2]}\n'
    assert found(path, content, "rows.json")[1] == [7, 7]
    assert found(path, b"\xef\xbb\xbf" + content.encode(), "rows.json")[0][0] == b'{"a": [1]}\n'
    assert found(path, b"\xef\xbb\xbf[1]")[0] == [b"1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it is empty"),
        (" \n", "it is empty"),
        ("[", "at byte 1, in row 0 (it ends there)"),
        ('[{"a": 1}', "at byte 9, in row 1 (it ends there)"),
        ('[{"a": 1},', "at byte 10, in row 1 (it ends there)"),
        ('[{"a": 1}, {"b', "at byte 12, in row 1 (Unterminated string starting at)"),
        ('[{"a": 1} {"b": 2}]', "at byte 10, in row 1 (',' is expected, found '{')"),
        ('[{"a": 1}, {"b": nul}, 3]', "at byte 17, in row 1 (Expecting value)"),
        ("[1,]", "at byte 3, in row 1 (Expecting value)"),
        ("[1] 2", "at byte 4, in row 1 (text follows the end of the list)"),
        ('[{"a": "\n"}]', "at byte 8, in row 0 (Invalid control character at)"),
        ('{"a": 1}', "holds a dict, but a list of rows"),
        ('{"a": [1], "b": [2]}', "more than one list (the second is 'b')"),
        ('{"a": [1], }', "'\"' is expected, found '}'"),
        ('{"a": [1] "b": 2}', "',' is expected, found '\"'"),
        ("12", "holds a float"),
        ('"text"', "holds a str"),
        ("\ufeff".encode("utf-16-le").decode("latin-1"), "at byte 0"),
    ],
)
def test_what_is_no_list_is_said_with_byte_and_row(path, content, message):
    with pytest.raises(ValueError) as caught:
        found(path, content)
    assert message in str(caught.value) and "rows.json" in str(caught.value)


def test_other_encodings_are_named(path):
    with pytest.raises(ValueError, match="UTF-16"):
        found(path, '[{"a": 1}]'.encode("utf-16"))


def test_deep_nesting_and_endless_strings_end_in_bounded_memory(path, monkeypatch):
    monkeypatch.setattr(json_index, "MOST", 1000)
    reads = []
    read = json_index._Scanner._widen

    def widen(self):
        read(self)
        reads.append(len(self._text))

    monkeypatch.setattr(json_index._Scanner, "_widen", widen)
    for content in ("[" * 300_000, '["' + "x" * 300_000):
        with pytest.raises(ValueError, match="in row 0"):
            found(path, content)
    assert max(reads) < 3000

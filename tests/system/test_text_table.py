"""Tables whose columns never touch, and CSV that spreadsheets only show."""

import csv
import io

from mtseg.system.text_table import format_csv, format_table, read_csv_text


def test_columns_are_as_wide_as_their_longest_cell():
    rows = [("hippocampus", "hippocampus_anterior", "0.9"), ("a", "b", "0.123")]
    assert format_table(("task", "class", "Dice"), rows, left=("task", "class")).splitlines() == [
        "task         class                  Dice",
        "hippocampus  hippocampus_anterior    0.9",
        "a            b                     0.123",
    ]


def test_a_table_without_rows_is_its_header():
    assert format_table(("task", "Dice"), [], left=("task",)) == "task  Dice"


FIELDS = [
    *("=1+1", "+a", "-a", "@SUM(A1)", "\tx", "'=1", "''-a", "\uff1d1"),
    *("'quoted'", "a=b", "", "-5"),
]


def test_no_name_in_a_csv_table_is_a_formula_and_each_can_be_read_back():
    text = format_csv(("name", "value"), [(field, -1.5) for field in FIELDS])
    title, *rows = csv.reader(io.StringIO(text, newline=""))
    assert title == ["name", "value"]
    assert [name for name, _ in rows if name[:1] in tuple("=+-@\t\uff1d")] == ["-5"]  # a number
    assert [read_csv_text(name) for name, _ in rows] == FIELDS
    assert rows[0] == ["'=1+1", "-1.5"]


def test_an_undefined_figure_is_an_empty_field():
    assert format_csv(("name", "dice"), [("s1", None)]) == "name,dice\ns1,\n"

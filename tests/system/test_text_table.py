"""Tables whose columns never touch."""

from mtseg.system.text_table import format_table


def test_columns_are_as_wide_as_their_longest_cell():
    rows = [("hippocampus", "hippocampus_anterior", "0.9"), ("a", "b", "0.123")]
    assert format_table(("task", "class", "Dice"), rows, left=("task", "class")).splitlines() == [
        "task         class                  Dice",
        "hippocampus  hippocampus_anterior    0.9",
        "a            b                     0.123",
    ]


def test_a_table_without_rows_is_its_header():
    assert format_table(("task", "Dice"), [], left=("task",)) == "task  Dice"

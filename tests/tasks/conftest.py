import pytest

from tests.tasks.kidney_task import KIDNEY


@pytest.fixture
def write_task(tmp_path):
    """Writes the kidney task with one text replaced by another."""

    def write(old="", new=""):
        assert old in KIDNEY
        path = tmp_path / "kidney.toml"
        path.write_text(KIDNEY.replace(old, new, 1) if old else KIDNEY, encoding="utf-8")
        return path

    return write

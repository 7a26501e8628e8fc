"""Which version and commit made a file."""

import subprocess

from mtseg.provenance.software import describe_software, source_commit


def git(folder, *arguments):
    done = subprocess.run(
        ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_the_commit_of_a_checkout_says_whether_its_files_changed(tmp_path):
    git(tmp_path, "init")
    (tmp_path / "mtseg").mkdir()
    (tmp_path / "mtseg" / "a.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")[:12]
    assert source_commit(tmp_path) == commit
    (tmp_path / "mtseg" / "a.py").write_text("2")
    assert source_commit(tmp_path) == f"{commit} with changes"


def test_a_repository_around_the_package_is_not_its_own(tmp_path):
    git(tmp_path, "init")
    (tmp_path / "site-packages").mkdir()
    assert source_commit(tmp_path / "site-packages") is None


def test_the_version_is_always_there():
    assert describe_software().startswith("mtseg 0.")

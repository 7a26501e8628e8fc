"""Experiments that are killed and resumed, and the report that is made of them."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import nibabel as nib
import pytest

from mtseg.phantoms.scanner import make_phantom
from tests.browser import Browser
from tests.end_to_end.test_commands import mtseg

pytestmark = pytest.mark.slow


def experiment_flags(data_dir, out):
    flags = {
        "preset": "demo", "tasks": "breast,cta", "data-dir": data_dir, "out": out,
        "minibatches-per-task": 6, "evaluate-every": 3, "global-batch-size": 12,
    }  # fmt: skip
    return [str(part) for name, value in flags.items() for part in (f"--{name}", value)]


@pytest.fixture(scope="module")
def experiments(tiny_data, tmp_path_factory):
    """A folder of experiments that were killed during the second one and resumed; its output."""
    out = tmp_path_factory.mktemp("experiments") / "out"
    flags = experiment_flags(tiny_data.data_dir, out)
    script = "import sys; from mtseg.cli.experiments import main; sys.exit(main())"
    # Without a log level of one's own, as most users are.
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    killed = subprocess.Popen(
        [sys.executable, "-c", script, *flags], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (out / "cta" / "config.json").exists():
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    _, said = killed.communicate()
    # The first experiment is done; TensorFlow, absl and TFDS have said nothing.
    assert said == ""
    first = (out / "breast" / "evaluation.json").read_bytes()
    printed = mtseg("experiments", *flags).stdout
    assert (out / "breast" / "evaluation.json").read_bytes() == first  # was not done again
    return out, flags, printed


def test_every_network_is_trained_and_compared(experiments):
    out, _, printed = experiments
    runs = {path.parent.name for path in out.glob("*/evaluation.json")}
    assert runs == {"breast", "cta", "breast+cta", "breast_again"}
    comparison = json.loads((out / "comparison.json").read_text())
    assert {(r["task"], r["class"], r["network"]) for r in comparison["rows"]} >= {
        ("breast", "pectoral_muscle", "breast+cta"),
        ("breast", "all", "breast_again"),
        ("cta", "coronary_arteries", "breast+cta"),
    }
    assert "Experiment 2 of 4: cta" in printed
    assert "Experiment 1 of 4" not in printed


def test_the_same_command_again_trains_nothing(experiments):
    out, flags, printed = experiments
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.h5")}
    again = mtseg("experiments", *flags).stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.h5")} == before
    assert again.split("verdict")[1] == printed.split("verdict")[1]


def test_other_flags_are_refused_with_what_differs(experiments):
    _, flags, _ = experiments
    result = mtseg("experiments", *flags, "--seed", 4, code=2)
    assert "seed: 0 / 4" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_budget_is_either_time_or_minibatches(experiments):
    _, flags, _ = experiments
    assert "Leave one" in mtseg("experiments", *flags, "--minutes", 5, code=2).stderr


def test_minutes_are_turned_into_minibatches_once(tiny_data, tmp_path):
    flags = ["--preset", "demo", "--tasks", "cta", "--data-dir", tiny_data.data_dir,
             "--global-batch-size", 8, "--minutes", 0.1, "--out", tmp_path / "out"]  # fmt: skip
    refused = mtseg("experiments", *flags, code=2)
    assert "are not enough" in refused.stderr
    assert not list((tmp_path / "out").iterdir())


@pytest.fixture(scope="module")
def report(experiments, tmp_path_factory):
    """The page, with a scan without labels, a note, Markdown and CSV."""
    folder = tmp_path_factory.mktemp("report")
    phantom = make_phantom("cta", seed=77, size=32)
    nib.save(nib.Nifti1Image(phantom.image, phantom.affine), folder / "heart.nii.gz")
    (folder / "notes.txt").write_text("What was\ntried.\n\nAnd what was not.")
    mtseg(
        "report", experiments[0], "--html", folder / "page.html", "--markdown",
        folder / "results.md", "--csv", folder / "results.csv", "--notes", folder / "notes.txt",
        "--unlabelled", f"cta={folder / 'heart.nii.gz'}",
    )  # fmt: skip
    return folder


def test_the_page_stands_alone_and_says_what_it_is(report):
    page = (report / "page.html").read_text()
    loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="([^"]*)"', page)
    assert all(address.startswith("data:") for address in loaded)
    assert page.count("<img") == page.count('alt="') > 3
    for text in ("Summary", "What was tried.", "heart.nii.gz", "mtseg-prepare breast:phantom"):
        assert text in page
    kinds = {path.suffix for path in (report / "page_figures").iterdir()}
    assert kinds == {".png", ".svg"}


def test_markdown_links_to_the_figures_beside_it(report):
    text = (report / "results.md").read_text()
    linked = re.findall(r"\]\((results/[^)]*)\)", text)
    assert len(linked) > 3
    assert all((report / name).is_file() for name in linked)
    assert "And what was not." in text
    assert "```console\nmtseg-prepare breast:phantom" in text


def test_every_figure_is_in_the_csv(report):
    with (report / "results.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert {row["network"] for row in rows} == {"breast", "cta", "breast+cta", "breast_again"}
    assert {"dice", "hd95_mm", "surface_dice", "alien_share"} <= {row["metric"] for row in rows}


def test_a_browser_shows_the_page_without_an_error(report, tmp_path):
    browser = Browser(tmp_path / "profile")
    try:
        browser.open((report / "page.html").as_uri())
        browser.wait_for("document.querySelector('.slices input').getAttribute('aria-valuetext')")
        before = browser.run(DRAWN)
        assert len(set(before)) == 3  # the scan, the reference and the network's labels
        browser.run(
            "document.querySelector('.panels').dispatchEvent("
            "new WheelEvent('wheel', {deltaY: 100, cancelable: true}))"
        )
        after = browser.run(DRAWN)
        assert not set(before) & set(after)
        for width in (1300, 390):
            browser.resize(width, 800)
            assert browser.run("document.documentElement.scrollWidth") <= width
            assert browser.run(CUT_OFF) == []
        browser.resize(1300, 800)
        cut = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.offsetWidth)"
        assert browser.run(f"{cut}.length") == 0
        browser.run(
            "(() => { const o = document.querySelector('.opacity'); o.value = 0; "
            "o.dispatchEvent(new Event('input')); })()"
        )
        assert len(set(browser.run(DRAWN))) == 1
        assert browser.logged == []
        assert all(url.startswith(("file:", "data:", "about:")) for url in browser.requested)
    finally:
        browser.close()


DRAWN = (
    """[...document.querySelector('.slices').querySelectorAll('canvas')].map(c => c.toDataURL())"""
)

CUT_OFF = """[...document.querySelectorAll('main *')].filter(e => {
  const box = e.getBoundingClientRect();
  return box.width && box.right > innerWidth && !e.closest('.scroll, pre');
}).map(e => e.outerHTML.slice(0, 80))"""


def test_a_folder_without_experiments_is_one_line(tmp_path):
    result = mtseg("report", tmp_path, code=2)
    assert result.stderr.startswith(f"error: {tmp_path}: has no experiments")
    result = mtseg("report", tmp_path, "--unlabelled", "breast", code=2)
    assert "TASK=SCAN" in result.stderr

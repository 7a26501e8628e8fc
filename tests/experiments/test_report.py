"""The report of recorded experiments: its sections, numbers, and both formats."""

import base64
import dataclasses
import datetime
import io
import json
import re
import shlex
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import mtseg
from mtseg.errors import InputError
from mtseg.evaluation.results import Evaluation, Row
from mtseg.experiments.compare import _find_persons, compare_networks
from mtseg.experiments.plan import label_of
from mtseg.experiments.report import details
from mtseg.experiments.report.comparisons import learning_curve_section
from mtseg.experiments.report.contents import TITLE, make_report
from mtseg.experiments.report.cross_task import unlabelled_blocks
from mtseg.experiments.report.details import paper_section
from mtseg.experiments.report.figures import confusion_percent, dice_distributions, segmentations
from mtseg.experiments.report.page import (
    Code,
    Heading,
    Paragraph,
    Picture,
    Table,
    save_figures,
    to_html,
    to_markdown,
)
from mtseg.experiments.report.slice_viewer import slice_viewer
from mtseg.experiments.report.summary import summary_section
from mtseg.experiments.results import read_results, to_csv
from mtseg.experiments.unlabelled import UnlabelledScan
from mtseg.provenance.fingerprint import read_fingerprint
from mtseg.provenance.software import source_commit
from mtseg.tasks.task_file import shipped_path


@pytest.fixture(scope="module")
def results(recorded):
    return read_results(recorded[0])


@pytest.fixture(scope="module")
def blocks(recorded, results):
    return make_report(results, recorded[0], notes="A first\nnote.\n\nA second note.")


def tables(blocks, heading):
    """The tables of a section."""
    start = blocks.index(Heading(heading))
    end = next(
        (n for n, b in enumerate(blocks) if n > start and isinstance(b, Heading)), len(blocks)
    )
    return [block for block in blocks[start:end] if isinstance(block, Table)]


def test_results_are_read_in_the_order_of_the_plan(results):
    assert [result.experiment.name for result in results] == [
        "brain", "breast", "cta", "brain+breast", "brain+cta", "breast+cta", "brain+breast+cta",
        "brain_again",
    ]  # fmt: skip
    assert results[4].label_space.class_names[-1] == "coronary_arteries"


def test_the_sections_stand_in_the_order_of_a_reader(blocks):
    assert [block.text for block in blocks if isinstance(block, Heading)] == [
        "Summary", "Data", "Single-task and multi-task networks", "Learning curves",
        "Example segmentations", "Dice of each scan", "Operating points",
        "Confusion between tasks", "All results of the network for all tasks",
        "Comparison with the paper", "Run times, machine and commands",
    ]  # fmt: skip


def test_networks_that_were_not_evaluated_while_they_were_trained_have_no_curves(results):
    assert (
        learning_curve_section([dataclasses.replace(r, curve=r.curve[-1:]) for r in results]) == []
    )
    assert learning_curve_section(results)


def test_the_summary_states_the_recorded_values(blocks):
    summary, *notes = (block.text for block in blocks[2:5])
    assert "8 networks were trained with 40 mini-batches of 210 samples per task" in summary
    # Dice is 0.90, 0.89 and 0.88; each further task costs 0.008 in the recorded results.
    assert "cta 0.874 (single-task network 0.890)" in summary
    # 9 comparisons, all of which lose 0.008 or 0.016, which is less than the margin.
    assert "9 times: in 9 of them it loses at most 0.02 Dice" in summary
    assert notes == ["A first note.", "A second note."]


def test_networks_with_the_same_figures_have_the_same_mean_in_the_summary(results):
    """Two scans have a class that ten others do not have, so means over classes come first."""
    rows = [Row("brain", "all", "s0", "alien_share", 0.0)]
    for scan in range(10):
        rows.append(Row("brain", "white_matter", f"s{scan}", "dice", 0.9))
        found = 0.5 if scan < 2 else None
        rows.append(Row("brain", "grey_matter", f"s{scan}", "dice", found))
    evaluation = Evaluation(tuple(rows), {})
    same = [
        dataclasses.replace(result, evaluation=evaluation)
        for result in results
        if "brain" in result.experiment.task_names
    ]
    (largest,) = (result for result in same if len(result.experiment.task_names) == 3)
    (brain,) = (s for s in largest.label_space.selections if s.task.name == "brain")
    _, paragraph = summary_section(same, largest, compare_networks(same), [brain], "")
    assert "brain 0.860 (single-task network 0.860)" in paragraph.text


def test_the_page_says_when_and_by_what_it_was_made(blocks):
    made = blocks[0].text
    assert str(datetime.date.today().year) in made
    assert f"mtseg {mtseg.__version__}" in made
    assert source_commit() is None or f"commit {source_commit()}" in made


def test_the_comparison_has_a_row_per_task_and_network(blocks):
    of_networks, of_tasks, of_classes = tables(blocks, "Single-task and multi-task networks")
    assert of_networks.rows[-1] == [
        "cta", "coronary arteries", "", "", "0.890", "", "0.882", "0.882", "0.874", ""
    ]  # fmt: skip
    assert len(of_tasks.rows) == 10
    # Three scans with equal differences: no interval and no verdict.
    assert ["brain", "brain (repeat)", "0.890", "0.885", "-0.005", "undecided"] in of_tasks.rows
    assert len(of_classes.rows) == 4 * 6 + 3 + 3


def test_the_task_file_says_which_scans_are_of_one_person():
    rows = [
        Row("heart", "all", f"{source}/patient{scan}", "alien_share", 0.0)
        for source in ("folder", "nnunet")
        for scan in ("001_frame01", "001_frame12", "004_frame01")
    ]
    result = SimpleNamespace(
        experiment=SimpleNamespace(config=SimpleNamespace(tasks="heart:folder+nnunet")),
        evaluation=SimpleNamespace(rows=rows),
    )
    persons = _find_persons(result, "heart")
    assert persons["folder/patient001_frame01"] == persons["folder/patient001_frame12"]
    assert len(set(persons.values())) == 4  # two patients in each source


def test_the_sessions_of_a_bids_data_set_are_of_one_person():
    rows = [
        Row("brain", "all", f"sub-{scan}", "alien_share", 0.0)
        for scan in ("1_ses-a", "1_ses-b", "2", "12_ses-a")
    ]
    result = SimpleNamespace(
        experiment=SimpleNamespace(config=SimpleNamespace(tasks="brain:bids")),
        evaluation=SimpleNamespace(rows=rows),
    )
    assert _find_persons(result, "brain") == {
        "sub-1_ses-a": "sub-1", "sub-1_ses-b": "sub-1", "sub-2": "sub-2", "sub-12_ses-a": "sub-12"
    }  # fmt: skip


def test_persons_are_joined_through_their_names_as_in_the_split(tmp_path):
    """Two participants are one person, which one pair of their four sessions says."""
    text = Path(shipped_path("brain")).read_text()
    text += '[sources.bids.split]\nsame_person = [["sub-1_ses-b", "sub-2_ses-a"]]\n'
    (tmp_path / "mine.toml").write_text(text)
    names = ["sub-1_ses-a", "sub-1_ses-b", "sub-2_ses-a", "sub-2_ses-b"]
    result = SimpleNamespace(
        experiment=SimpleNamespace(config=SimpleNamespace(tasks=f"{tmp_path}/mine.toml:bids")),
        evaluation=SimpleNamespace(rows=[Row("brain", "all", n, "alien_share", 0) for n in names]),
    )
    assert set(_find_persons(result, "brain").values()) == {"sub-1"}


def test_a_scan_with_dollar_signs_in_its_name_is_drawn():
    labels = np.zeros((4, 5), np.uint8)
    example = (r"brain, $\frac$", np.zeros(labels.shape, np.float32), [("reference", labels)])
    segmentations([example], ["background", "brain"]).savefig(io.BytesIO())


def test_the_cross_task_error_is_in_percent_of_the_voxels(blocks):
    matrix, errors = tables(blocks, "Confusion between tasks")
    # 3 of 9000 + 1000 + 3 voxels of a breast scan get a class of the brain.
    assert matrix.rows[1][:3] == ["breast", "89.9730", "0.0300"]
    assert errors.rows[1] == ["breast", "3", "0.02999", "0.02999"]
    assert "cross-task" in errors.caption.lower()


def test_the_paper_is_compared_only_for_its_three_tasks(recorded, results, blocks):
    (paper,) = tables(blocks, "Comparison with the paper")
    assert ["mini-batches per task", "25,000 of 210", "40 of 210"] in paper.rows
    largest = next(result for result in results if len(result.experiment.task_names) == 3)
    brain, breast, cta = largest.label_space.selections
    selections = [cta, dataclasses.replace(brain, sources=("phantom", "phantom")), breast]
    _, table = paper_section(largest, selections)
    # Each task has two training scans and a test scan or more; those of the brain count twice.
    assert paper.rows[0][2] != table.rows[0][2]
    assert table.rows[0][2].split(", ")[1:] == paper.rows[0][2].split(", ")[1:]
    two_tasks = [r for r in results if set(r.experiment.task_names) <= {"breast", "cta"}]
    headings = [b.text for b in make_report(two_tasks, recorded[0]) if isinstance(b, Heading)]
    assert "Comparison with the paper" not in headings


def test_the_commands_prepare_and_run_everything_again(blocks, recorded):
    commands = next(block.text for block in blocks if isinstance(block, Code)).splitlines()
    data_dir = recorded[1].data_dir
    prepare = f"mtseg-prepare brain:phantom --data-dir {data_dir} --kinds patches,volumes --size 32"
    assert commands[0].startswith(prepare)
    assert commands[3:] == ["mtseg-experiments --preset demo"]


def test_the_commands_choose_the_files_and_shards_of_the_records(recorded, results, monkeypatch):
    def read(folder):
        made_of = read_fingerprint(folder)
        source = made_of.source | {"filter": {"run": "1", "desc": "a b"}}
        settings = made_of.settings | {"num_shards": 3}
        return dataclasses.replace(made_of, source=source, settings=settings)

    monkeypatch.setattr(details, "read_fingerprint", read)
    report = make_report(results, recorded[0])
    command = shlex.split(next(b.text for b in report if isinstance(b, Code)).splitlines()[0])
    assert command[command.index("--bids-filter") + 1] == "run=1,desc=a b"
    assert command[command.index("--num-shards") + 1] == "3"


@pytest.mark.parametrize("place", [0, -1])
def test_one_finished_experiment_makes_a_report(recorded, results, place):
    """The first, and the repeat."""
    page = to_html(TITLE, make_report([results[place]], recorded[0]))
    assert "no multi-task network yet" in page
    assert "no two networks for the same task" in page


def test_without_a_finished_experiment_the_command_is_named(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}: no experiment is finished. Rerun the"):
        make_report([], tmp_path)


def test_a_missing_label_map_is_named(recorded, results, monkeypatch, tmp_path):
    from mtseg.runs import workdir as workdir_files

    monkeypatch.setattr(workdir_files, "labels_path", lambda *of: tmp_path / "gone.npz")
    with pytest.raises(InputError, match=r"gone\.npz: is missing or unreadable"):
        make_report(results, recorded[0])


def test_html_is_one_file_with_its_pictures_inside(blocks):
    page = to_html(TITLE, blocks)
    loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="([^"]*)"', page)
    assert all(address.startswith("data:") for address in loaded)
    assert page.count("<img") == page.count('alt="') == 5
    assert '<a href="#confusion-between-tasks">Confusion between tasks</a>' in page
    assert '<h2 id="confusion-between-tasks">' in page
    assert page.count('<div class="slices"') == 3
    assert len(page) < 3_000_000


def test_markdown_links_to_the_saved_figures(blocks, tmp_path):
    save_figures(blocks, tmp_path / "page", ("png",))
    text = to_markdown(TITLE, blocks, "page")
    linked = re.findall(r"\]\((page/[^)]*)\)", text)
    assert len(linked) == 5
    assert all((tmp_path / name).is_file() for name in linked)
    assert "| brain | brain + breast |" in text
    assert "slices" not in text


def test_text_is_escaped_and_marked():
    page = to_html("a < b", [Paragraph("**p < 0.5** in `x & y`, [here](https://example.org/)")])
    assert "<title>a &lt; b</title>" in page
    assert "<strong>p &lt; 0.5</strong> in <code>x &amp; y</code>" in page
    assert '<a href="https://example.org/">here</a>' in page


def test_the_same_figure_gives_the_same_file(blocks, tmp_path):
    picture = next(b for b in blocks if isinstance(b, Picture) and b.name == "confusion")
    for folder in ("a", "b"):
        save_figures([picture], tmp_path / folder, ("png", "svg"))
    for name in ("confusion.png", "confusion.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_experiments_are_labelled_for_readers():
    assert label_of("brain+breast") == "brain + breast"
    assert label_of("brain_again") == "brain (repeat)"


def test_the_confusion_of_a_task_adds_up_to_all_its_voxels(results):
    for shares in confusion_percent(results[6]).values():
        assert shares.sum() == pytest.approx(100)


def test_all_panels_of_dice_have_one_scale(results):
    scales = {axis.get_ylim() for axis in dice_distributions(results).axes}
    (scale,) = scales
    assert scale[0] < 0.859  # the lowest Dice: 0.88 less 0.016 and 0.005
    assert scale[1] >= 1


def test_errors_between_tasks_have_a_colour_bar(blocks):
    picture = next(b for b in blocks if isinstance(b, Picture) and b.name == "confusion")
    matrix, bar = picture.figure.axes
    assert "% of voxels" in bar.get_ylabel()
    shown = matrix.images[0].get_array()
    assert shown.mask[1].tolist() == [True, *[False] * 6, True, False]  # breast: its own are grey


def test_a_class_that_no_scan_has_is_a_dash_without_a_warning(recorded, results):
    def without(row):
        is_gone = row.class_name in ("coronary_arteries", "all")
        return dataclasses.replace(row, value=None) if is_gone else row

    undefined = [
        dataclasses.replace(
            result,
            evaluation=dataclasses.replace(
                result.evaluation, rows=tuple(map(without, result.evaluation.rows))
            ),
        )
        for result in (results[2], results[6])
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        blocks = make_report(undefined, recorded[0])
        page = to_html(TITLE, blocks)
    (points,) = tables(blocks, "Operating points")
    assert ["coronary arteries", "cta", "0.50", "–", "–", "–"] in points.rows
    assert not re.search(r"\bnan\b", page)


def sheets_of(viewer):
    """What a viewer draws: its slices, and the pictures of its layers."""
    content = json.loads(re.search(r"<script[^>]*>(.*?)</script>", viewer)[1])
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet.partition(",")[2]))))
        for sheet in content.pop("sheets")
    ]
    return content, pictures


def test_a_viewer_has_each_slice_with_titles_and_a_legend():
    image = np.zeros((30, 20, 10), np.float32)
    image[5:25, 4:16, 1:] = 0.6
    labels = np.zeros(image.shape, np.uint8)
    labels[10, 4, 3] = 2
    names = ["background", "white_matter", "brain_stem"]
    viewer = slice_viewer("scan 1", image, [("reference", labels)], names, 10**6)
    content, (scan, reference) = sheets_of(viewer)
    # Two voxels more than the foreground, on each side; slice 0 is empty.
    assert content == {"slices": list(range(1, 10)), "columns": 8, "width": 24, "height": 16}
    assert scan.shape == reference.shape == (2 * 16, 8 * 24)
    # The third slice of the sheet; anterior is up, so the lowest row but the margin.
    assert np.argwhere(reference == 2).tolist() == [[13, 2 * 24 + 7]]
    assert abs(int(scan[8, 12]) - 127) < 3
    assert "brain stem" in viewer
    assert "white matter" not in viewer
    assert "<figcaption>reference</figcaption>" in viewer


def test_an_empty_scan_has_a_viewer_too():
    empty = np.zeros((4, 5, 3), np.uint8)
    viewer = slice_viewer("empty", empty.astype(np.float32), [("network", empty)], ["none"], 10**6)
    assert sheets_of(viewer)[0]["slices"] == [0, 1, 2]


def test_a_long_scan_shows_at_most_64_slices_and_fewer_where_they_are_too_large():
    image = np.random.default_rng(0).uniform(0.1, 1, (40, 50, 130)).astype(np.float32)
    labels = np.ones(image.shape, np.uint8)
    layers = [("reference", labels)]
    content, _ = sheets_of(slice_viewer("long", image, layers, ["none", "all"], 10**6))
    assert content["slices"] == list(range(0, 130, 3))
    smaller = slice_viewer("long", image, layers, ["none", "all"], 40_000)
    assert len(sheets_of(smaller)[0]["slices"]) < 44
    assert len(smaller) < 45_000


def test_scans_without_labels_show_how_much_gets_another_task():
    scan = UnlabelledScan("heart.nii.gz", "cta", None, 12_000, 0.25, 0.0005, 0.875)
    _, table = unlabelled_blocks([scan])
    assert table.rows == [
        ["heart.nii.gz", "cta", "background only", "12,000", "0.0500", "25.00", "0.875"]
    ]
    assert unlabelled_blocks([]) == []


def test_the_csv_has_all_values_and_earlier_means(results):
    lines = to_csv(results).splitlines()
    assert lines[0] == "network,minibatch,task,class,subject,metric,value"
    # The first of four evaluations: a quarter of mean Dice 0.89.
    assert "cta,10,cta,coronary_arteries,all,dice,0.2225" in lines
    assert not [line for line in lines if line.startswith("cta,40,")]
    assert len([line for line in lines if line.startswith("cta,,") and ",dice," in line]) == 3


def test_the_csv_tells_validation_scans_from_test_scans(results):
    (result,) = (result for result in results if result.experiment.name == "cta")
    curve = [point | {"split": "validation"} for point in result.curve]
    lines = to_csv([dataclasses.replace(result, curve=curve)]).splitlines()
    assert "cta,10,cta,coronary_arteries,all,validation_dice,0.2225" in lines
    assert [line for line in lines if line.startswith("cta,40,")]
    assert not [line for line in lines if ",all,dice," in line]

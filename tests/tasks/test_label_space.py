"""Label spaces: the classes of one or several tasks as the outputs of one network."""

import functools
import json

import numpy as np
import pytest

from mtseg.tasks import task_file
from mtseg.tasks.label_space import LabelSpace, parse_tasks
from tests.tasks.kidney_task import KIDNEY, refused


@pytest.mark.parametrize(
    ("text", "num_classes"),
    [
        ("brain", 7),
        ("breast", 2),
        ("cta", 2),
        ("brain,breast", 8),
        ("brain,cta", 8),
        ("breast,cta", 3),
        ("brain,breast,cta", 9),
    ],
)
def test_the_seven_experiments_have_the_papers_number_of_outputs(text, num_classes):
    space = parse_tasks(text)
    assert space.num_classes == num_classes
    assert len(space.class_names) == len(space.class_task) == len(space.decisions) == num_classes


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nnunet", "is a layout. Name a task before it, such as brain:nnunet."),
        ("nnunet", "mtseg check --write-task-file TASK.toml nnunet DIR"),
        ("kidney:nnunet", "which mtseg check --write-task-file drafts for a data set."),
    ],
)
def test_who_has_no_task_yet_is_told_how_to_get_one(text, words):
    assert words in refused(parse_tasks, text)


def test_classes_follow_the_order_of_the_tasks():
    space = parse_tasks("cta, brain ,breast")
    assert space.class_names[:3] == ("background", "coronary_arteries", "white_matter")
    assert space.class_names[-1] == "pectoral_muscle"
    assert space.class_task == (None, "cta", *["brain"] * 6, "breast")
    assert space.decisions == ("argmax", "operating_point", *["argmax"] * 6, "operating_point")
    assert [space.offset(name) for name in ("cta", "brain", "breast")] == [0, 1, 7]
    assert space.class_indices("brain") == (2, 3, 4, 5, 6, 7)
    assert space.indices_of_other_tasks("brain") == (1, 8)
    assert space.indices_of_other_tasks("breast") == (1, 2, 3, 4, 5, 6, 7)
    assert parse_tasks("cta").indices_of_other_tasks("cta") == ()


def test_a_tasks_own_classes_land_at_their_combined_places():
    space = parse_tasks("breast,brain")
    assert space.to_combined("brain").tolist() == [0, 2, 3, 4, 5, 6, 7]
    assert space.to_combined("breast").tolist() == [0, 1]
    assert space.to_combined("brain").dtype == np.uint8
    own = np.array([[0, 6], [1, 0]], np.uint8)
    assert space.to_combined("brain")[own].tolist() == [[0, 7], [2, 0]]


def test_scores_of_a_task_follow_the_backgrounds():
    space = parse_tasks("breast,brain,cta")
    assert space.num_backgrounds("shared") == 1
    assert space.to_scores("brain", "shared").tolist() == [0, 2, 3, 4, 5, 6, 7]
    assert space.num_backgrounds("by-task") == 3
    assert space.to_scores("breast", "by-task").tolist() == [0, 3]
    assert space.to_scores("brain", "by-task").tolist() == [1, 4, 5, 6, 7, 8, 9]
    assert space.to_scores("cta", "by-task").tolist() == [2, 10]
    assert parse_tasks("cta").to_scores("cta", "by-task").tolist() == [0, 1]


def test_a_task_that_the_network_lacks_is_refused():
    assert "cta" in refused(parse_tasks("brain,breast").offset, "cta")


def test_spec_is_read_back_and_the_default_source_is_phantom():
    space = parse_tasks("brain:miccai2012,breast,cta")
    assert space.spec == "brain:miccai2012,breast:phantom,cta:phantom"
    assert parse_tasks(space.spec) == space
    assert [s.spec for s in parse_tasks("brain").selections] == ["brain:phantom"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("brian", ["'brian'", "did you mean brain?", "breast, cta"]),
        ("liver", ["'liver'", "brain, breast, cta"]),
        ("brain:micai2012", ["did you mean miccai2012?", "miccai2012, freesurfer, phantom"]),
        ("breast:miccai2012", ["breast", "phantom"]),
        ("", ["empty"]),
        ("brain,,cta", ["empty", "brain,,cta"]),
        ("brain:", ["empty"]),
        (":phantom", ["empty"]),
        ("brain,brain:miccai2012", ["brain", "twice"]),
        ("nowhere/mine.toml", ["nowhere/mine.toml", "No such file"]),
        ("nowhere/mine.toml:phantom", ["nowhere/mine.toml", "No such file"]),
    ],
)
def test_unusable_texts_are_refused(text, words):
    message = refused(parse_tasks, text)
    assert all(word in message for word in words), message


def test_no_task_at_all_is_refused():
    assert "brain, breast, cta" in refused(LabelSpace, ())


def test_label_space_comes_back_from_json_without_task_files(monkeypatch):
    space = parse_tasks("brain:miccai2012,breast,cta")
    text = json.dumps(space.to_json())
    monkeypatch.setattr(task_file, "TASK_FILES", None)  # whoever opens one, fails
    again = LabelSpace.from_json(json.loads(text))
    assert again.to_json() == space.to_json()
    assert again.class_names == space.class_names
    assert again.decisions == space.decisions
    assert [s.sources for s in again.selections] == [("miccai2012",), ("phantom",), ("phantom",)]
    assert again.selections[1].task.target_spacing_mm((1.2, 1.2, 1.5)) == 1.2


@pytest.mark.promise("no code on load")
@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("name",), "../../outside"), (("name",), ["a"]), (("title",), 3), (("spacing_mm",), "1"),
        (("spacing_mm",), float("inf")), (("spacing_mm",), 0), (("decision",), "other"),
        (("classes", 0, "name"), "../x"), (("classes", 0, "name"), {}),
        (("classes", 0, "label"), float("inf")), (("classes", 0, "label"), 256),
        (("classes", 0, "label"), "../x"), (("classes", 0, "color"), "url(x)"),
        (("is_symmetric",), "no"), (("classes", 0, "fill_holes"), "no"),
        (("classes", 0, "code"), {"scheme": "SCT", "value": 4, "meaning": "Muscle"}),
    ],
    ids=str,
)  # fmt: skip
def test_values_that_no_task_file_can_have_are_refused(place, value):
    """A model's manifest may be anybody's file."""
    stored = parse_tasks("breast").to_json()
    *way, last = ("tasks", 0, *place)
    functools.reduce(lambda part, key: part[key], way, stored)[last] = value
    assert "label space" in refused(LabelSpace.from_json, stored)


def test_spec_of_a_label_space_from_json():
    space = parse_tasks("brain:miccai2012,cta")
    assert LabelSpace.from_json(space.to_json()).spec == space.spec


@pytest.mark.promise("refused input")
@pytest.mark.parametrize("stored", [None, [], {}, {"tasks": [{}]}, {"tasks": [3]}, {"tasks": 3}])
def test_json_of_something_else_is_refused(stored):
    assert "label space" in refused(LabelSpace.from_json, stored)


def test_json_with_an_unknown_field_is_refused():
    stored = parse_tasks("cta").to_json()
    stored["tasks"][0]["window_hu"] = 3
    assert "label space" in refused(LabelSpace.from_json, stored)


def test_own_task_file(write_task):
    path = write_task()
    space = parse_tasks(f"breast,{path}")
    task = space.selections[1].task
    assert space.class_names == ("background", "pectoral_muscle", "kidney", "cyst")
    assert task.spacing_mm == 2.0
    assert isinstance(task.spacing_mm, float)
    assert task.path == str(path)
    assert task.source("miccai2012").split.train == ("a", "b")
    assert hash(space) == hash(parse_tasks(f"breast,{path}"))
    # A first source is the default where there is no phantom; the path stays in the text.
    assert space.spec == f"breast:phantom,{path}:miccai2012"
    assert parse_tasks(space.spec) == space


def test_own_task_file_from_the_home_folder(write_task, monkeypatch):
    monkeypatch.setenv("HOME", str(write_task().parent))
    assert parse_tasks("~/kidney.toml:miccai2012").selections[0].task.name == "kidney"


def test_own_task_may_have_a_shipped_name(write_task):
    path = write_task('name = "kidney"', 'name = "brain"')
    (selection,) = parse_tasks(str(path)).selections
    assert selection.spec == f"{path}:miccai2012"
    assert "twice" in refused(parse_tasks, f"brain,{path}")


def test_a_class_of_two_tasks_is_refused(write_task):
    path = write_task('name = "kidney"\ntitle = "Kidney"\n', 'name = "cerebellum"\ntitle = "x"\n')
    path.write_text(path.read_text().replace("kidney = [", "cerebellum = ["))
    message = refused(parse_tasks, f"brain,{path}")
    assert str(path) in message
    assert "cerebellum" in message


def test_more_classes_than_fit_are_refused(write_task):
    path = write_task()
    lobes = range(1, 254)
    classes = "".join(f'[[classes]]\nname = "lobe{n}"\ntitle = "Lobe"\n' for n in lobes)
    labels = "".join(f"lobe{n} = [{100 + n}]\n" for n in lobes)
    text = KIDNEY.replace("[[classes]]", f"{classes}[[classes]]", 1)
    path.write_text(text.replace("cyst = [5]\n", f"cyst = [5]\n{labels}"))
    assert "256 classes" in refused(parse_tasks, str(path))


def test_a_task_needs_no_source_of_its_own(write_task):
    path = write_task()
    path.write_text(KIDNEY.split("[sources")[0])
    assert parse_tasks(str(path)).spec == f"{path}:folder"
    assert parse_tasks(f"{path}:nnunet").selections[0].sources == ("nnunet",)
    message = refused(parse_tasks, f"{path}:hospital")
    assert "bids, folder, msd, nnunet" in message


def test_several_sources_of_a_task(write_task):
    path = write_task()
    space = parse_tasks(f"{path}:miccai2012+nnunet,cta")
    assert space.selections[0].sources == ("miccai2012", "nnunet")
    assert space.spec == f"{path}:miccai2012+nnunet,cta:phantom"
    assert LabelSpace.from_json(space.to_json()).selections[0].sources == ("miccai2012", "nnunet")
    assert "named twice" in refused(parse_tasks, "brain:miccai2012+miccai2012")
    assert "no source ''" in refused(parse_tasks, "brain:miccai2012+")


def test_post_processing_comes_back_from_json_and_older_label_spaces_have_none(write_task):
    options = 'name = "cyst"\ntitle = "Cyst"\nfill_holes = true\n'
    space = parse_tasks(str(write_task('name = "cyst"\ntitle = "Cyst"\n', options)))
    stored = json.loads(json.dumps(space.to_json()))
    assert stored["tasks"][0]["classes"][0] == {"name": "kidney", "title": "Kidney"}
    kidney, cyst = LabelSpace.from_json(stored).selections[0].task.classes
    assert (kidney.largest_component, kidney.fill_holes) == (False, False)
    assert (cyst.largest_component, cyst.fill_holes) == (False, True)

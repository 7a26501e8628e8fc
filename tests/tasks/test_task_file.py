"""Task files and label spaces, by hand on arrays small enough to check by eye."""

import json

import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.phantoms.scanner import CLASS_LABELS
from mtseg.tasks import task_file
from mtseg.tasks.label_space import LabelSpace, parse_tasks
from mtseg.tasks.task import IGNORED
from mtseg.tasks.task_file import read_task, shipped_tasks

KIDNEY = """
name = "kidney"
title = "Kidney and cyst"
modality = "MR"
citation = "none"

[spacing]
rule = "fixed"
mm = 2

[decision]
rule = "argmax"

[[classes]]
name = "kidney"
title = "Kidney"

[[classes]]
name = "cyst"
title = "Cyst"

[sources.miccai2012.labels]
background = [0, "7-9"]
kidney = [1, "20-22"]
cyst = [5]

[sources.miccai2012.split]
train = ["a", "b"]
test = ["c"]
"""


@pytest.fixture
def write_task(tmp_path):
    """Writes the kidney task with one text replaced by another."""

    def write(old="", new=""):
        assert old in KIDNEY
        path = tmp_path / "kidney.toml"
        path.write_text(KIDNEY.replace(old, new, 1) if old else KIDNEY, encoding="utf-8")
        return path

    return write


def refused(call, *arguments):
    """The message of the InputError, which is one line."""
    with pytest.raises(InputError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert message == " ".join(message.split()), message
    return message


# The shipped tasks.


def test_three_tasks_ship():
    assert shipped_tasks() == ("brain", "breast", "cta")


@pytest.mark.parametrize(
    ("name", "modality", "rule", "mm", "decision", "counts"),
    [
        ("brain", "MR", "fixed", 1.0, "argmax", (14, 20)),
        ("breast", "MR", "in_plane", None, "operating_point", (14, 20)),
        ("cta", "CT", "fixed", 0.45, "operating_point", (6, 4)),
    ],
)
def test_shipped_tasks_are_the_papers(name, modality, rule, mm, decision, counts):
    task = parse_tasks(name).selections[0].task
    assert (task.name, task.modality, task.decision) == (name, modality, decision)
    assert (task.spacing_rule, task.spacing_mm) == (rule, mm)
    for name in {"miccai2012", "phantom"} & {source.name for source in task.sources}:
        source = task.source(name)
        assert (len(source.split.train), len(source.split.test)) == counts
    assert task.citation.startswith("Moeskops")


@pytest.mark.parametrize("name", ["brain", "breast", "cta"])
def test_phantom_labels_are_those_that_phantoms_have(name):
    source = parse_tasks(name).selections[0].task.source("phantom")
    assert dict(source.values) == {key: (label,) for key, label in CLASS_LABELS[name].items()}
    assert source.background == (0,)


def test_brain_challenge_labels_and_split():
    task = parse_tasks("brain").selections[0].task
    source = task.source("miccai2012")
    labels = dict(source.values)
    assert labels["cortical_grey_matter"] == (*range(100, 208), 31, 32, 47, 48)
    assert labels["cerebellum"] == (38, 39, 40, 41, 71, 72, 73)
    assert labels["brain_stem"] == (35,)
    assert source.split.train[0] == "1000"
    assert source.split.train[-1] == "1017"
    assert "1036" not in source.split.train + source.split.test
    label_map = np.array([0, 44, 207, 75, 15, 73, 35, 74, 69])
    mapped = task.map_labels(label_map, task.source("miccai2012"), "1000_glm.nii.gz")
    assert mapped.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 0]


# Label spaces.


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


def test_classes_follow_the_order_of_the_tasks():
    space = parse_tasks("cta, brain ,breast")
    assert space.class_names[:3] == ("background", "coronary_arteries", "white_matter")
    assert space.class_names[-1] == "pectoral_muscle"
    assert space.class_task == (None, "cta", *["brain"] * 6, "breast")
    assert space.decisions == ("argmax", "operating_point", *["argmax"] * 6, "operating_point")
    assert [space.offset(name) for name in ("cta", "brain", "breast")] == [0, 1, 7]
    assert space.class_indices("brain") == (2, 3, 4, 5, 6, 7)
    assert space.alien_indices("brain") == (1, 8)
    assert space.alien_indices("breast") == (1, 2, 3, 4, 5, 6, 7)
    assert parse_tasks("cta").alien_indices("cta") == ()


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


# The spacing rule.


def test_fixed_spacing_is_the_tasks():
    task = parse_tasks("cta").selections[0].task
    assert task.target_spacing_mm((0.4, 0.4, 0.9)) == 0.45


@pytest.mark.parametrize(
    ("spacing_mm", "expected"),
    [
        ((1.33, 1.33, 3.99), 1.33),
        ((3.0, 0.9, 0.9), 0.9),
        ((1.0, 0.7, 1.0), 1.0),  # slices thinner than the plane
        ((1.0, 1.0, 1.0), 1.0),
        ((1.25, 1.75, 3.0), 1.5),
        ((3.0, 2.0, 1.0), 1.5),  # the finer pair of two that are equally alike
    ],
)
def test_in_plane_spacing_is_that_of_the_two_axes_most_alike(spacing_mm, expected):
    task = parse_tasks("breast").selections[0].task
    assert task.target_spacing_mm(spacing_mm) == pytest.approx(expected)


# Labels to classes.


def test_labels_and_ranges_become_class_indices(write_task):
    task = read_task(write_task())
    label_map = np.array([[0, 1, 20], [22, 5, 9]], np.int16)
    mapped = task.map_labels(label_map, task.source("miccai2012"), "a_glm.nii.gz")
    assert mapped.tolist() == [[0, 1, 1], [1, 2, 0]]
    assert mapped.dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64])
def test_any_integer_type_and_memory_order_gives_the_same(write_task, dtype):
    task = read_task(write_task())
    label_map = np.asfortranarray(np.array([0, 1, 5, 7, 21, 0] * 4, dtype).reshape(2, 3, 4))
    mapped = task.map_labels(label_map, task.source("miccai2012"), "a_glm.nii.gz")
    expected = np.array([0, 1, 2, 0, 1, 0] * 4).reshape(2, 3, 4)
    np.testing.assert_array_equal(mapped, expected)


def test_labels_that_are_not_listed_are_refused_by_value(write_task):
    path = write_task()
    task = read_task(path)
    source = task.source("miccai2012")
    for label_map in (np.array([1, -3, 23, 6]), np.array([1, -3, 70_000, 6])):
        message = refused(task.map_labels, label_map, source, "scans/a_glm.nii.gz")
        assert message.startswith("scans/a_glm.nii.gz: ")
        assert str(path) in message
        assert f"-3, 6, {label_map[2]} are not" in message


def test_at_most_ten_unlisted_labels_are_named(write_task):
    task = read_task(write_task())
    message = refused(task.map_labels, np.arange(30, 45), task.source("miccai2012"), "a")
    assert "30, 31, 32, 33, 34, 35, 36, 37, 38, 39 and 5 more are" in message


@pytest.mark.parametrize("label_map", [np.array([0, 7, 9]), np.zeros((2, 0, 3), int)])
def test_a_label_map_without_any_class_is_refused(write_task, label_map):
    task = read_task(write_task())
    source = task.source("miccai2012")
    message = refused(task.map_labels, label_map, source, "a_glm.nii.gz")
    assert message.startswith("a_glm.nii.gz: empty label map")


# A task file of one's own.


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


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name =", "name", ["not a TOML file", "line 2"]),
        ("title =", "titel =", ["titel: unknown key", "did you mean title?"]),
        ('modality = "MR"\n', "", ["modality: is missing", "a text"]),
        ("title =", "is_symmetric = 1\ntitle =", ["is_symmetric: must be true or false"]),
        ("title =", "is_symetric = true\ntitle =", ["did you mean is_symmetric?"]),
        ('modality = "MR"', "modality = 3", ["modality: must be a text, not 3"]),
        ('name = "kidney"', 'name = "Kidney 2"', ["name: 'Kidney 2'"]),
        ('"fixed"', '"fixd"', ["spacing.rule", '"fixed", "in_plane"', "fixd"]),
        ('"fixed"', '"in_plane"', ["spacing.mm: unknown key"]),
        ("mm = 2", "", ["spacing.mm: is missing"]),
        ("mm = 2", "mm = -1.0", ["spacing.mm"]),
        ("mm = 2", "mm = nan", ["spacing.mm"]),
        ("mm = 2", "mm = true", ["spacing.mm: must be a number, not True"]),
        ('"argmax"', '"best"', ["decision.rule", "operating_point"]),
        ('name = "cyst"', 'name = "kidney"', ["classes: 'kidney'"]),
        ('name = "cyst"', 'name = "background"', ["classes: 'background'"]),
        ('title = "Cyst"', "colour = 3", ["classes, number 2: colour: unknown key"]),
        ('name = "cyst"', 'name = "tumour"', ["miccai2012.labels.cyst: unknown key", "tumour"]),
        ("cyst = [5]", "", ["miccai2012.labels.cyst: is missing"]),
        ("cyst = [5]", "cyst = []", ["miccai2012.labels.cyst: has no label"]),
        ("cyst = [5]", "cyst = 5", ["miccai2012.labels.cyst: must be a list"]),
        ("cyst = [5]", "cyst = [1]", ["labels.cyst: 1 is listed twice", "kidney"]),
        ("cyst = [5]", "cyst = [5, 5]", ["labels.cyst: 5 is listed twice", "cyst"]),
        ("cyst = [5]", 'cyst = ["5-8"]', ["labels.cyst: 7 is listed twice", "background"]),
        ("cyst = [5]", 'cyst = ["9-5"]', ["labels.cyst: '9-5' is not a label"]),
        ("cyst = [5]", 'cyst = [" "]', ["labels.cyst: ' ' is not a label"]),
        ("cyst = [5]", "cyst = [5]\nignore = [5]", ["labels.ignore: 5 is listed twice", "cyst"]),
        ('name = "cyst"', 'name = "ignore"', ["classes: 'ignore'"]),
        ("cyst = [5]", "cyst = [5.0]", ["labels.cyst: 5.0 is not a label"]),
        ("cyst = [5]", "cyst = [-5]", ["labels.cyst: -5 is not a label"]),
        ("cyst = [5]", "cyst = [true]", ["labels.cyst: True is not a label"]),
        ("cyst = [5]", 'cyst = ["5-99999999999"]', ["labels.cyst", "65535"]),
        ("background =", "backgroud =", ["labels.backgroud", "did you mean background?"]),
        ('["c"]', '["c", "a"]', ["miccai2012.split: subjects are in train and test: a."]),
        ('["c"]', '["c", "c"]', ["test subjects are listed twice: c"]),
        ('["c"]', "[]", ["no test subject"]),
        ('["c"]', "[1000]", ["split", "names in quotes"]),
        ('["c"]', "20", ["split.test: must be a list, not 20"]),
        ('["c"]', '["c"]\nsame_person = [["a", "c"]]', ["subjects a, c are one person"]),
        ('["c"]', '["c"]\nsame_person = ["a"]', ["names in quotes"]),
        (".split]", ".splits]", ["sources.miccai2012.splits: unknown key"]),
        ("sources.miccai2012", "sources.My", ["sources: 'My'"]),
    ],
)
def test_a_faulty_task_file_is_refused_by_file_and_key(write_task, old, new, words):
    path = write_task()
    path.write_text(path.read_text().replace(old, new, 2 if "sources" in old else 1))
    message = refused(read_task, path)
    assert message.startswith(f"{path}: ")
    assert all(word in message for word in words), message


def test_a_phantom_split_is_two_numbers(write_task):
    path = write_task()
    phantom = "\n[sources.phantom.labels]\nbackground = [0]\nkidney = [1]\ncyst = [2]\n"
    counts = "[sources.phantom.split]\ntrain = 2\ntest = 1\n"
    path.write_text(KIDNEY + phantom + counts)
    split = read_task(path).source("phantom").split
    assert split.train == ("phantom000", "phantom001")
    assert split.test == ("phantom1000",)
    assert parse_tasks(str(path)).spec == f"{path}:phantom"
    for wrong in (
        counts.replace("2", '["a"]'),
        counts.replace("2", "0"),
        counts.replace("2", "1001"),
    ):
        path.write_text(KIDNEY + phantom + wrong)
        assert "phantom.split" in refused(read_task, path)


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("content", "word"),
    [(b"\xff\xfe", "not a TOML file"), (b"", "is missing"), (b"spacing = 3", "missing")],
)
def test_a_file_that_is_no_task_file_is_refused(tmp_path, content, word):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    assert word in refused(read_task, path)
    assert str(tmp_path) in refused(read_task, tmp_path)


@pytest.mark.parametrize("key", ["spacing", "classes"])
def test_tables_that_are_none_are_refused(write_task, key):
    path = write_task()
    head = KIDNEY.split("\n\n")[0]
    others = {"spacing": "{}", "decision": "{}", "sources": "{}", "classes": "[]"}
    path.write_text(head + "\n" + "\n".join(f"{k} = {v}" for k, v in others.items() if k != key))
    assert f"{key}: is missing" in refused(read_task, path)
    path.write_text(
        head + "\n" + "\n".join(f"{k} = {3 if k == key else v}" for k, v in others.items())
    )
    assert f"{key}: must be" in refused(read_task, path)


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


def test_labels_of_which_it_is_not_known_what_they_are(write_task):
    task = read_task(write_task("cyst = [5]", "cyst = [5]\nignore = [6]"))
    mapped = task.map_labels(np.array([0, 1, 5, 6]), task.source("miccai2012"), "a")
    assert mapped.tolist() == [0, 1, 2, IGNORED]


def test_background_may_hide_a_class_that_is_not_annotated(write_task):
    path = write_task("cyst = [5]\n", "")
    text = path.read_text().replace(
        "[sources.miccai2012.labels]",
        '[sources.miccai2012]\nnot_annotated = ["cyst"]\n\n[sources.miccai2012.labels]',
    )
    path.write_text(text)
    task = read_task(path)
    source = task.source("miccai2012")
    assert task.map_labels(np.array([0, 1, 7]), source, "a").tolist() == [IGNORED, 1, IGNORED]
    assert "empty label map" in refused(task.map_labels, np.array([0, 7]), source, "a")
    path.write_text(text.replace('["cyst"]', '["cist"]'))
    assert "did you mean cyst?" in refused(read_task, path)


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("{ test_share = 1.5 }", ["test_share: must be a share between 0 and 1"]),
        ('{ test_share = 0.5, train = ["a"] }', ["test_share: unknown key"]),
        ('{ train = ["a"] }', ["split.test: is missing"]),
    ],
)
def test_a_split_is_lists_or_a_share(write_task, split, words):
    path = write_task()
    body, _ = KIDNEY.split("[sources.miccai2012.split]")
    path.write_text(body + f"[sources.miccai2012]\nsplit = {split}\n")
    message = refused(read_task, path)
    assert all(word in message for word in words), message


def test_a_task_without_classes_is_refused(write_task):
    path = write_task()
    without_sources = KIDNEY.split("[sources")[0]
    head = without_sources.split("[[classes]]")[0]
    path.write_text(head.replace("[spacing]", "sources = {}\nclasses = []\n[spacing]"))
    assert "classes: there are none" in refused(read_task, path)
    path.write_text(head.replace("[spacing]", "sources = {}\nclasses = [3]\n[spacing]"))
    assert "classes, number 1: must be a table" in refused(read_task, path)

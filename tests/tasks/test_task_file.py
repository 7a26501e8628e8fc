"""Task files: those that ship, and every way in which one can be wrong."""

import numpy as np
import pytest

from mtseg.phantoms.scanner import CLASS_LABELS
from mtseg.tasks.label_space import parse_tasks
from mtseg.tasks.task import IGNORED
from mtseg.tasks.task_file import read_task, shipped_path, shipped_tasks
from tests.tasks.kidney_task import KIDNEY, refused


def test_five_tasks_ship():
    assert shipped_tasks() == ("brain", "breast", "cta", "heart", "hippocampus")


@pytest.mark.parametrize("name", shipped_tasks())
def test_a_shipped_file_is_not_the_users_to_edit(name):
    task = read_task(shipped_path(name))
    assert task.is_shipped
    assert task.own_file == ""
    assert task.file_to_edit.startswith("a copy of ")


@pytest.mark.parametrize(
    ("name", "modality", "rule", "mm", "decision", "counts"),
    [
        ("brain", "MR", "fixed", 1.0, "argmax", (14, 20)),
        ("breast", "MR", "in_plane", None, "operating_point", (14, 20)),
        ("cta", "CT", "fixed", 0.45, "operating_point", (6, 4)),
    ],
)
def test_three_shipped_tasks_are_the_papers(name, modality, rule, mm, decision, counts):
    task = parse_tasks(name).selections[0].task
    assert (task.name, task.modality, task.decision) == (name, modality, decision)
    assert (task.spacing_rule, task.spacing_mm) == (rule, mm)
    for name in {"miccai2012", "phantom"} & {source.name for source in task.sources}:
        source = task.source(name)
        assert (len(source.split.train), len(source.split.test)) == counts
    assert task.citation.startswith("Moeskops")


@pytest.mark.parametrize(
    ("name", "rule", "mm", "is_symmetric", "licence", "sources"),
    [
        ("hippocampus", "fixed", 1.0, True, "CC BY-SA 4.0", ["msd", "nnunet", "folder"]),
        ("heart", "in_plane", None, False, "CC BY-NC-SA 4.0", ["acdc", "nnunet", "folder"]),
    ],
)
def test_the_others_are_those_of_public_data_sets(name, rule, mm, is_symmetric, licence, sources):
    task = read_task(shipped_path(name))
    assert (task.modality, task.decision, task.is_symmetric) == ("MR", "argmax", is_symmetric)
    assert (task.spacing_rule, task.spacing_mm) == (rule, mm)
    assert licence in task.citation
    assert "http" in task.citation
    assert [source.name for source in task.sources] == [*sources, "phantom"]
    for source in task.sources:  # all number the classes in their order, as the data set does
        assert [values for _, values in source.values] == [(n,) for n in range(1, task.num_classes)]


@pytest.mark.parametrize("name", shipped_tasks())
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


# Structures by the name in FreeSurferColorLUT.txt: their labels, left and right, and their class.
FREESURFER = [
    ("Unknown", (0,), "background"),
    ("CSF", (24,), "background"),
    ("undetermined", (29, 61), "background"),
    ("vessel", (30, 62), "background"),
    ("non-WM-hypointensities", (80, 81, 82), "background"),
    ("Optic-Chiasm", (85,), "background"),
    ("Cerebral-White-Matter", (2, 41), "white_matter"),
    ("WM-hypointensities", (77, 78, 79), "white_matter"),
    ("CC_Posterior to CC_Anterior", (251, 252, 253, 254, 255), "white_matter"),
    ("Cerebral-Cortex", (3, 42), "cortical_grey_matter"),
    ("Hippocampus", (17, 53), "cortical_grey_matter"),
    ("Amygdala", (18, 54), "cortical_grey_matter"),
    ("Thalamus", (10, 49), "basal_ganglia_thalami"),
    ("Thalamus-unused", (9, 48), "basal_ganglia_thalami"),
    ("Caudate", (11, 50), "basal_ganglia_thalami"),
    ("Putamen", (12, 51), "basal_ganglia_thalami"),
    ("Pallidum", (13, 52), "basal_ganglia_thalami"),
    ("Accumbens-area", (26, 58), "basal_ganglia_thalami"),
    ("Substancia-Nigra", (27, 59), "basal_ganglia_thalami"),
    ("VentralDC", (28, 60), "basal_ganglia_thalami"),
    ("Lateral-Ventricle", (4, 43), "ventricular_csf"),
    ("Inf-Lat-Vent", (5, 44), "ventricular_csf"),
    ("3rd-Ventricle, 4th-Ventricle, 5th-Ventricle", (14, 15, 72), "ventricular_csf"),
    ("choroid-plexus", (31, 63), "ventricular_csf"),
    ("Cerebellum-White-Matter", (7, 46), "cerebellum"),
    ("Cerebellum-Cortex", (8, 47), "cerebellum"),
    ("Brain-Stem", (16,), "brain_stem"),
]

# The same by the challenge's own table; right and left.
CHALLENGE = [
    ("Cerebral Exterior", (42, 43), "background"),
    ("CSF", (46,), "background"),
    ("vessel", (63, 64), "background"),
    ("Insula, not scored: stray voxels", (65, 66), "background"),
    ("Optic Chiasm", (69,), "background"),
    ("Vitamin E Tablet", (74,), "background"),
    ("Cerebral White Matter", (44, 45), "white_matter"),
    ("ACgG to TTG, the cortex", (100, 102, 103, 172, 173, 207), "cortical_grey_matter"),
    ("Amygdala", (31, 32), "cortical_grey_matter"),
    ("Hippocampus", (47, 48), "cortical_grey_matter"),
    ("Accumbens Area", (23, 30), "basal_ganglia_thalami"),
    ("Caudate", (36, 37), "basal_ganglia_thalami"),
    ("Pallidum", (55, 56), "basal_ganglia_thalami"),
    ("Putamen", (57, 58), "basal_ganglia_thalami"),
    ("Thalamus Proper", (59, 60), "basal_ganglia_thalami"),
    ("Ventral DC", (61, 62), "basal_ganglia_thalami"),
    ("Basal Forebrain", (76, 75), "basal_ganglia_thalami"),
    ("3rd, 4th and 5th Ventricle", (4, 11, 15), "ventricular_csf"),
    ("Inf Lat Vent", (49, 50), "ventricular_csf"),
    ("Lateral Ventricle", (51, 52), "ventricular_csf"),
    ("Cerebellum Exterior", (38, 39), "cerebellum"),
    ("Cerebellum White Matter", (40, 41), "cerebellum"),
    ("Cerebellar Vermal Lobules", (71, 72, 73), "cerebellum"),
    ("Brain Stem", (35,), "brain_stem"),
]


@pytest.mark.parametrize(
    ("source", "labels", "class_name"),
    [
        pytest.param(source, labels, class_name, id=f"{source}-{structure}")
        for source, table in (("freesurfer", FREESURFER), ("miccai2012", CHALLENGE))
        for structure, labels, class_name in table
    ],
)
def test_structures_of_the_brain_are_in_their_class(source, labels, class_name):
    source = read_task(shipped_path("brain")).source(source)
    listed = dict(source.values) | {"background": source.background}
    assert set(labels) <= set(listed[class_name])


def test_no_label_of_freesurfer_is_without_a_structure():
    source = read_task(shipped_path("brain")).source("freesurfer")
    listed = {label for _, values in source.values for label in values} | set(source.background)
    assert listed == {label for _, labels, _ in FREESURFER for label in labels}


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
        ("cyst = [5]", "cyst = [-5]", ["labels.cyst: -5 is not a label", "from 0 to"]),
        ("[0, ", "[-99999, ", ["labels.background: -99999 is not a label", "from -32768 to"]),
        ("cyst = [5]", "cyst = [true]", ["labels.cyst: True is not a label"]),
        ("cyst = [5]", 'cyst = ["5-99999999999"]', ["labels.cyst", "65535"]),
        ("background =", "backgroud =", ["labels.backgroud", "did you mean background?"]),
        ('["c"]', '["c", "a"]', ["miccai2012.split: subjects are in train and test: a."]),
        ('["c"]', '["c", "c"]', ["test subjects are listed twice: c"]),
        ('["c"]', '["c"]\nval = ["a"]', ["subjects are in train and validation: a."]),
        ('["c"]', '["c"]\nval = ["d"]\nvalidation = ["e"]', ["split.val: unknown key"]),
        ('["c"]', "[1000]", ["split", "names in quotes"]),
        ('["c"]', "20", ["split.test: must be a list, not 20"]),
        ('["c"]', '["c"]\nsame_person = [["a", "c"]]', ["subjects a, c are one person"]),
        ('["c"]', '["c"]\nsame_person = ["a"]', ["names in quotes"]),
        (".split]", ".splits]", ["sources.miccai2012.splits: unknown key"]),
        ('["c"]', '["c"]\nleave_out = ["d"]', ["split.leave_out: unknown key"]),
        ('["c"]', '["c"]\nperson_before = ""', ["split.person_before: is empty"]),
        ('["c"]', '["c"]\nperson_before = 3', ["split.person_before: must be a text, not 3"]),
        ("sources.miccai2012", "sources.My", ["sources: 'My'"]),
    ],
)
def test_a_faulty_task_file_is_refused_by_file_and_key(write_task, old, new, words):
    path = write_task()
    path.write_text(path.read_text().replace(old, new, 2 if "sources" in old else 1))
    message = refused(read_task, path)
    assert message.startswith(f"{path}: ")
    assert all(word in message for word in words), message


def test_voxels_without_a_class_may_be_below_0(write_task):
    """Some programs write -1 for the background, others for what was not looked at."""
    label_map = np.array([-1, 0, 1, 5, 7])
    for key, mapped in (("background", 0), ("ignore", IGNORED)):
        extra = f"ignore = [-1]\nbackground = [0, {'7-9'!r}]" if key == "ignore" else ""
        path = write_task('background = [0, "7-9"]', extra or 'background = [-1, 0, "7-9"]')
        task = read_task(path)
        found = task.map_labels(label_map, task.source("miccai2012"), "x")
        assert found.tolist() == [mapped, 0, 1, 2, 0]
    task = read_task(write_task())
    assert "labels -1 are not listed" in refused(
        task.map_labels, label_map, task.source("miccai2012"), "x"
    )


def test_a_byte_order_mark_is_left_out(write_task):
    path = write_task()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_task(path).name == "kidney"


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('folder]\nimages = "a/*.nii"', "images: give patterns of both, images and label_maps"),
        ('folder]\nimages = "a.nii"\nlabel_maps = "*"', "images: 'a.nii' is not a pattern"),
        ('folder]\nimages = "../*"\nlabel_maps = "*"', "images: '../*' is not a pattern"),
        ('folder]\nimages = "**/a"\nlabel_maps = "*"', "images: '**/a' is not a pattern"),
        ('folder]\nlabels = "a/*.nii"', "labels: is the table of label values"),
        ('msd]\nimages = "*"\nlabel_maps = "*"', "images: is for the layout folder, not msd"),
        ('msd]\nfilter = { run = "1" }', "filter: is for the layout bids, not msd"),
        ("bids]\nfilter = { run = 1 }", 'filter.run: write the value in quotes: run = "1"'),
        ('bids]\nfilter = { "run-1" = "1" }', "filter: run-1 = '1' is not an entity"),
        ('bids]\nfilter = "run=1"', "filter: must be a table"),
    ],
)
def test_a_choice_of_files_that_cannot_be_meant_is_refused(write_task, source, words):
    path = write_task()
    path.write_text(f"{KIDNEY}\n[sources.{source}\n")
    assert f"{path}: sources." in refused(read_task, path)
    assert words in refused(read_task, path)


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
    path.write_text(KIDNEY + '\n[sources.phantom]\nlayout = "msd"\n' + phantom + counts)
    assert "sources.phantom.layout: unknown key" in refused(read_task, path)


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("content", "word"),
    [(b"\xff\xfe", "not a TOML file"), (b"", "is missing"), (b"spacing = 3", "missing")],
)
def test_a_file_that_is_not_a_task_file_is_refused(tmp_path, content, word):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    assert word in refused(read_task, path)
    assert str(tmp_path) in refused(read_task, tmp_path)


@pytest.mark.parametrize("key", ["spacing", "classes"])
def test_values_that_are_not_tables_are_refused(write_task, key):
    path = write_task()
    head = KIDNEY.split("\n\n")[0]
    others = {"spacing": "{}", "decision": "{}", "sources": "{}", "classes": "[]"}
    path.write_text(head + "\n" + "\n".join(f"{k} = {v}" for k, v in others.items() if k != key))
    assert f"{key}: is missing" in refused(read_task, path)
    path.write_text(
        head + "\n" + "\n".join(f"{k} = {3 if k == key else v}" for k, v in others.items())
    )
    assert f"{key}: must be" in refused(read_task, path)


@pytest.mark.promise("refused input")
def test_a_path_in_the_home_folder_of_nobody_is_refused():
    message = refused(read_task, "~no_such_user_/kidney.toml")
    assert message.startswith("~no_such_user_/kidney.toml: cannot be read")


@pytest.mark.promise("refused input")
def test_a_file_that_is_nested_too_deeply_is_refused(tmp_path):
    path = tmp_path / "deep.toml"
    path.write_text("a = " + "[" * 100_000)
    assert refused(read_task, path).startswith(f"{path}: is nested too deeply")


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("sources.hospital = 3", "sources.hospital: must be a table of labels, split"),
        (
            'sources.hospital = { not_annotated = ["cyst"] }',
            "sources.hospital.not_annotated: needs labels",
        ),
    ],
)
def test_a_source_that_says_half_is_refused(write_task, source, words):
    path = write_task('citation = "none"\n', f'citation = "none"\n{source}\n')
    assert words in refused(read_task, path)


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("{ test_share = 1.5 }", ["test_share: must be at least 0 and below 1, not 1.5"]),
        ('{ test_share = 0.5, train = ["a"] }', ["test_share: unknown key"]),
        ('{ test = ["a"] }', ["split.train: is missing"]),
        ("{ train = [] }", ["no train subject"]),
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
    assert "classes: the list is empty" in refused(read_task, path)
    path.write_text(head.replace("[spacing]", "sources = {}\nclasses = [3]\n[spacing]"))
    assert "classes, number 1: must be a table" in refused(read_task, path)


def test_post_processing_is_an_option_of_a_class_and_off_in_shipped_tasks(tmp_path):
    for name in shipped_tasks():
        for tissue in read_task(shipped_path(name)).classes:
            assert (tissue.largest_component, tissue.fill_holes) == (False, False)
    path = tmp_path / "task.toml"
    option = 'title = "Cyst"\nlargest_component = true\nfill_holes = false'
    path.write_text(KIDNEY.replace('title = "Cyst"', option))
    options = [(c.largest_component, c.fill_holes) for c in read_task(path).classes]
    assert options == [(False, False), (True, False)]
    path.write_text(KIDNEY.replace('title = "Cyst"', 'title = "Cyst"\nfill_holes = 1'))
    assert "classes, number 2: fill_holes: must be true or false, not 1" in refused(read_task, path)

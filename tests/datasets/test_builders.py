"""The TFDS builders of the shipped tasks, by TFDS's own test case."""

import csv
import re
import shlex

import nibabel as nib
import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from mtseg_datasets.mtseg_brain.mtseg_brain_dataset_builder import Builder as Brain
from mtseg_datasets.mtseg_breast.mtseg_breast_dataset_builder import Builder as Breast
from mtseg_datasets.mtseg_cta.mtseg_cta_dataset_builder import Builder as Cta
from mtseg_datasets.mtseg_heart.mtseg_heart_dataset_builder import Builder as Heart
from mtseg_datasets.mtseg_hippocampus.mtseg_hippocampus_dataset_builder import (
    Builder as Hippocampus,
)

from mtseg.cli.prepare import make_parser
from mtseg.records.builder import RecordConfig, builder_class
from mtseg.records.schema import record_features
from mtseg.tasks.task_file import shipped_tasks

BUILDERS = [Brain, Breast, Cta, Heart, Hippocampus]


def configurations(source, **settings):
    return [
        RecordConfig(name=f"tiny_{source}_{kind}", source=source, kind=kind, **settings)
        for kind in ("patches", "volumes")
    ]


PHANTOMS = configurations("phantom", size=32, num_train=2, num_test=1, patches_per_class=4)


class BuilderCase(tfds.testing.DatasetBuilderTestCase):
    """The number of patches depends on the scans, so only the volumes' splits are counted."""

    BUILDER_CONFIG_NAMES_TO_TEST = PHANTOMS[1:]
    SPLITS = {"train": 2, "test": 1}  # noqa: RUF012 - the test case's own interface
    EXAMPLE_DIR = "."


class BrainPhantomTest(BuilderCase):
    DATASET_CLASS = Brain


class BreastPhantomTest(BuilderCase):
    DATASET_CLASS = Breast


class CtaPhantomTest(BuilderCase):
    DATASET_CLASS = Cta


class HeartPhantomTest(BuilderCase):
    DATASET_CLASS = Heart


class HippocampusPhantomTest(BuilderCase):
    DATASET_CLASS = Hippocampus


class BreastPatchesTest(BuilderCase):
    DATASET_CLASS = Breast
    BUILDER_CONFIG_NAMES_TO_TEST = PHANTOMS[:1]
    SPLITS = {"train": 2 * 2 * 4}  # noqa: RUF012 - subjects, classes, patches of each


class BrainMiccai2012Test(BuilderCase):
    DATASET_CLASS = Brain
    BUILDER_CONFIG_NAMES_TO_TEST = configurations("miccai2012")[1:]
    SPLITS = {"train": 2, "test": 1}  # noqa: RUF012

    @classmethod
    def setUpClass(cls):
        cls.EXAMPLE_DIR = tfds.testing.make_tmp_dir()
        # The test case remembers the folder of the first class that asked.
        cls.dummy_data = epath.Path(cls.EXAMPLE_DIR)
        write_challenge_folder(cls.EXAMPLE_DIR)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        tfds.testing.rm_tmp_dir(cls.EXAMPLE_DIR)


del BuilderCase  # a base, not a test


def write_challenge_folder(folder):
    """Three tiny scans in the challenge's layout, with a split of their own."""
    rng = np.random.default_rng(0)
    with open(f"{folder}/split.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "split"])
        writer.writerows([("1000", "train"), ("1001", "train"), ("1010", "test")])
    for subject in ("1000", "1001", "1010"):
        affine = np.diag([-1.0, 1.0, 1.0, 1.0])
        image = rng.integers(1, 900, (7, 8, 9)).astype(np.int16)
        labels = rng.choice([0, 44, 45, 31, 100, 207, 59, 4, 38, 35], (7, 8, 9)).astype(np.int16)
        nib.save(nib.Nifti1Image(image, affine), f"{folder}/{subject}_SS.nii.gz")
        nib.save(nib.Nifti1Image(labels, affine), f"{folder}/{subject}_glm.nii.gz")


def test_every_shipped_task_has_a_builder():
    assert [builder.TASK.name for builder in BUILDERS] == list(shipped_tasks())


def test_the_builder_of_a_task_is_the_one_that_ships(tmp_path):
    for shipped in BUILDERS:
        made = builder_class(shipped.TASK, shipped.BUILDER_CONFIGS)
        assert made.name == shipped.name
        shipped_builder = shipped(config="phantom_patches", data_dir=tmp_path)
        made_builder = made(config="phantom_patches", data_dir=tmp_path)
        assert made_builder.data_dir == shipped_builder.data_dir
        assert repr(made_builder.info.features) == repr(shipped_builder.info.features)


def test_builders_carry_readme_citation_and_instructions():
    builder = Brain(config="miccai2012_patches")
    assert builder.info.description.startswith("# mtseg_brain")
    assert "moeskops2016multitask" in builder.info.citation
    assert "_glm.nii.gz" in builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    assert str(builder.version) in builder.RELEASE_NOTES


@pytest.mark.parametrize("builder", BUILDERS)
def test_every_source_is_described(builder):
    readme = (builder.pkg_dir_path / "README.md").read_text()
    for source in builder.TASK.sources:
        assert f"| `{source.name}` |" in readme
        assert f"`{source.name}_*`" in builder.MANUAL_DOWNLOAD_INSTRUCTIONS
        assert f"`{source.name}`" in builder.__doc__ or len(builder.TASK.sources) == 1


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("kind", ["patches", "volumes"])
def test_the_docstring_shows_the_features_and_classes(builder, kind):
    for name, feature in record_features(builder.TASK, kind).items():
        (line,) = [x for x in builder.__doc__.splitlines() if x.split()[:1] == [name]][:1]
        if feature.np_dtype not in (np.int64, np.object_):  # classes and texts are in words
            assert np.dtype(feature.np_dtype).name in line
    for index, title in enumerate(builder.TASK.class_names):
        assert f"{index} {title.split('_')[0]}" in builder.__doc__


@pytest.mark.parametrize("builder", BUILDERS)
def test_the_commands_of_the_docstring_and_the_readme_write_both_kinds(builder):
    """The example loads patches, and the README speaks of patches and volumes."""
    readme = (builder.pkg_dir_path / "README.md").read_text()
    for text in (builder.__doc__, readme):
        (command,) = re.findall(r"mtseg-prepare \w+:\w+ (?:.|\n)*?--data-dir [^`\s]+", text)
        arguments = make_parser().parse_args(shlex.split(command)[1:])
        assert arguments.kinds == "patches,volumes"

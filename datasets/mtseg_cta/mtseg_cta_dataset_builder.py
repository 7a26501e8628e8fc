"""TFDS builder of the cta task: the coronary arteries in cardiac CT angiography.

Use it to read or prepare the records with TFDS's own commands; `mtseg-prepare` writes the same
records, several times faster. The configurations are `SOURCE_patches` and `SOURCE_volumes`; the
sources are `phantom`, `imagecas` and `asoca` (see the README).
"""

from etils import epath

from mtseg.records import builder
from mtseg.tasks.task_file import read_task, shipped_path


class Builder(builder.TaskBuilder):
    """The coronary arteries in cardiac CT angiography, as triplanar patches or whole volumes.

    Patches, with the split `train` alone:

        patches      float16 (3, 51, 51): axial, coronal and sagittal patch around one voxel
        class_index  0 background, 1 coronary arteries
        subject      name of the subject
        index_ijk    int32 (3,): the voxel in the prepared volume

    Volumes, with the splits `train` and `test`:

        image            float32 (I, J, K): RAS+, normalised, foreground above 0; isotropic
                         voxels of 0.45 mm
        class_index_map  uint8 (I, J, K): class index of each voxel, 255 if its class is unknown
        affine           float64 (4, 4): voxel index to RAS+ world in mm
        subject          name of the subject

    The split has 6 training and 4 test subjects of `phantom`. Of `imagecas` and `asoca`, 20 %
    of the subjects are held out for testing.

    Example:

        mtseg-prepare cta:phantom --kinds patches,volumes --data-dir mtseg_data
        tfds.load("mtseg_cta/phantom_patches", split="train", data_dir="mtseg_data")
    """

    VERSION = builder.TaskBuilder.VERSION
    RELEASE_NOTES = builder.RELEASE_NOTES
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    `imagecas_*`: the folder of ImageCAS, with `N.img.nii.gz` beside `N.label.nii.gz`.

    `asoca_*`: the folder of ASOCA, with `*/CTCA/NAME.nrrd` and `*/Annotations/NAME.nrrd`. To read
    NRRD, `pip install 'mtseg[itk]'`.

    An optional `split.csv` in the folder (columns `subject,split`) says which subjects are for
    training and which for testing. `phantom_*` needs no download.
    """
    TASK = read_task(shipped_path("cta"))
    BUILDER_CONFIGS = builder.record_configs(TASK)
    # An editable install has no package folder that TFDS could find by itself.
    code_path = epath.Path(__file__)
    pkg_dir_path = code_path.parent
    # README.md and CITATIONS.bib of this folder become the description and the citation.
    _make_info = builder.TaskBuilder.dataset_info_from_configs

"""TFDS builder of the heart task: ventricles and myocardium in short-axis cine MR.

Use it to read or prepare the records with TFDS's own commands; `mtseg-prepare` writes the same
records, several times faster. The configurations are `SOURCE_patches` and `SOURCE_volumes`; the
sources are `phantom`, `acdc`, `nnunet` and `folder` (see the README).
"""

from etils import epath

from mtseg.records import builder
from mtseg.tasks.task_file import read_task, shipped_path


class Builder(builder.TaskBuilder):
    """Ventricles and myocardium in short-axis cine MR, as triplanar patches or volumes.

    Patches, with the split `train` alone:

        patches      float16 (3, 51, 51): axial, coronal and sagittal patch around one voxel
        class_index  0 background, 1 right_ventricle, 2 myocardium, 3 left_ventricle
        subject      name of the subject
        index_ijk    int32 (3,): the voxel in the prepared volume

    Volumes, with the splits `train` and `test`:

        image            float32 (I, J, K): RAS+, normalised, foreground above 0; isotropic
                         voxels of the in-plane voxel size of the scan
        class_index_map  uint8 (I, J, K): class index of each voxel, 255 if its class is unknown
        affine           float64 (4, 4): voxel index to RAS+ world in mm
        subject          name of the subject

    The split has 20 training and 10 test subjects of `phantom`. That of `acdc` is the challenge's
    folders `training` and `testing`. Otherwise, and of `nnunet` and `folder`, 20 % of the patients
    are held out for testing.

    Example:

        mtseg-prepare heart:phantom --kinds patches,volumes --data-dir mtseg_data
        tfds.load("mtseg_heart/phantom_patches", split="train", data_dir="mtseg_data")
    """

    VERSION = builder.TaskBuilder.VERSION
    RELEASE_NOTES = builder.RELEASE_NOTES
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    `acdc_*`: the folder of ACDC, with `training/patientNNN/patientNNN_frameFF.nii.gz` and
    `patientNNN_frameFF_gt.nii.gz`, and the same in `testing/`.

    `nnunet_*`: the same as nnU-Net has it, with `imagesTr/NAME_0000.nii.gz`.

    `folder_*`: `images/` and `labels/` with equal file names; 1 is the right ventricle, 2 the
    myocardium, 3 the left ventricle.

    An optional `split.csv` in the folder (columns `subject,split`) says which subjects are for
    training and which for testing. `phantom_*` needs no download.
    """
    TASK = read_task(shipped_path("heart"))
    BUILDER_CONFIGS = builder.record_configs(TASK)
    # An editable install has no package folder that TFDS could find by itself.
    code_path = epath.Path(__file__)
    pkg_dir_path = code_path.parent
    # README.md and CITATIONS.bib of this folder become the description and the citation.
    _make_info = builder.TaskBuilder.dataset_info_from_configs

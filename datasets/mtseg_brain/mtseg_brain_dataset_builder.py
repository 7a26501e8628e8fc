"""TFDS builder of the brain task: six tissues in T1-weighted brain MR.

Use it to read or prepare the records with TFDS's own commands; `mtseg-prepare` writes the same
records, several times faster. The configurations are `SOURCE_patches` and `SOURCE_volumes`; the
sources are `phantom`, `miccai2012` and `freesurfer` (see the README).
"""

from etils import epath

from mtseg.records import builder
from mtseg.tasks.task_file import read_task, shipped_path


class Builder(builder.TaskBuilder):
    """Six tissues in T1-weighted brain MR, as triplanar patches or whole volumes.

    Patches, with the split `train` alone:

        patches      float16 (3, 51, 51): axial, coronal and sagittal patch around one voxel
        class_index  0 background, 1 white matter, 2 cortical grey matter,
                     3 basal ganglia and thalami, 4 ventricular CSF, 5 cerebellum, 6 brain stem
        subject      name of the subject
        index_ijk    int32 (3,): the voxel in the prepared volume

    Volumes, with the splits `train` and `test`:

        image            float32 (I, J, K): RAS+, normalised, foreground above 0; isotropic
                         voxels of 1.0 mm
        class_index_map  uint8 (I, J, K): class index of each voxel, 255 if its class is unknown
        affine           float64 (4, 4): voxel index to RAS+ world in mm
        subject          name of the subject

    The split has 14 training and 20 test subjects, of `phantom` and of `miccai2012`. Of
    `freesurfer`, 20 % of the subjects are held out for testing.

    Example:

        mtseg-prepare brain:phantom --kinds patches,volumes --data-dir mtseg_data
        tfds.load("mtseg_brain/phantom_patches", split="train", data_dir="mtseg_data")
    """

    VERSION = builder.TaskBuilder.VERSION
    RELEASE_NOTES = builder.RELEASE_NOTES
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    `miccai2012_*`: one folder with the scans of the MICCAI 2012 multi-atlas labelling challenge,
    `NNNN_SS.nii.gz` or `NNNN*.nii.gz`, and their label maps, `NNNN*_glm.nii.gz`. NNNN is the
    subject.

    `freesurfer_*`: a FreeSurfer subjects directory, with `SUBJECT/mri/orig.mgz` or `norm.mgz` and
    `SUBJECT/mri/aseg.mgz`.

    An optional `split.csv` in the folder (columns `subject,split`) says which subjects are for
    training and which for testing. `phantom_*` needs no download.
    """
    TASK = read_task(shipped_path("brain"))
    BUILDER_CONFIGS = builder.record_configs(TASK)
    # An editable install has no package folder that TFDS could find by itself.
    code_path = epath.Path(__file__)
    pkg_dir_path = code_path.parent
    # README.md and CITATIONS.bib of this folder become the description and the citation.
    _make_info = builder.TaskBuilder.dataset_info_from_configs

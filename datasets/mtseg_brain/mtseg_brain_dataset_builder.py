"""TFDS builder: Six tissues in T1-weighted brain MR."""

from etils import epath

from mtseg.records import builder
from mtseg.tasks.label_space import parse_tasks


class Builder(builder.TaskBuilder):
    """Six tissues in T1-weighted brain MR, as triplanar patches or whole volumes."""

    VERSION = builder.TaskBuilder.VERSION
    RELEASE_NOTES = builder.RELEASE_NOTES
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    For `miccai2012_*`: the MICCAI 2012 multi-atlas labelling challenge's scans in one folder,
    `NNNN_SS.nii.gz` (or `NNNN*.nii.gz`) beside `NNNN*_glm.nii.gz`, with an optional `split.csv`
    (columns `subject,split`). `phantom_*` needs no download.
    """
    TASK = parse_tasks("brain").selections[0].task
    BUILDER_CONFIGS = builder.record_configs(TASK)
    # An editable install has no package folder that TFDS could find by itself.
    code_path = epath.Path(__file__)
    pkg_dir_path = code_path.parent
    _make_info = builder.TaskBuilder.dataset_info_from_configs

"""TFDS builder: Six tissues in T1-weighted brain MR."""

from etils import epath

from mtseg import records
from mtseg.tasks import parse_tasks


class Builder(records.TaskBuilder):
    """Six tissues in T1-weighted brain MR, as triplanar patches or whole volumes."""

    VERSION = records.TaskBuilder.VERSION
    RELEASE_NOTES = records.RELEASE_NOTES
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    For `miccai2012_*`: the MICCAI 2012 multi-atlas labelling challenge's scans in one folder,
    `NNNN_SS.nii.gz` (or `NNNN*.nii.gz`) beside `NNNN*_glm.nii.gz`, with an optional `split.csv`
    (columns `subject,split`). `phantom_*` needs no download.
    """
    TASK = parse_tasks("brain").selections[0].task
    BUILDER_CONFIGS = records.record_configs(TASK)
    # An editable install has no package folder that TFDS could find by itself.
    code_path = epath.Path(__file__)
    pkg_dir_path = code_path.parent
    _make_info = records.TaskBuilder.dataset_info_from_configs

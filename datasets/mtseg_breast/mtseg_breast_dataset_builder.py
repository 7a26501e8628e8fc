"""TFDS builder: Pectoral muscle in T1-weighted breast MR."""

from etils import epath

from mtseg import records
from mtseg.tasks import parse_tasks


class Builder(records.TaskBuilder):
    """Pectoral muscle in T1-weighted breast MR, as triplanar patches or whole volumes."""

    VERSION = records.TaskBuilder.VERSION
    RELEASE_NOTES = records.RELEASE_NOTES
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    `phantom_*` needs no download; other sources are prepared with `mtseg-prepare`.
    """
    TASK = parse_tasks("breast").selections[0].task
    BUILDER_CONFIGS = records.record_configs(TASK)
    # An editable install has no package folder that TFDS could find by itself.
    code_path = epath.Path(__file__)
    pkg_dir_path = code_path.parent
    _make_info = records.TaskBuilder.dataset_info_from_configs

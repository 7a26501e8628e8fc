"""TFDS builder: Pectoral muscle in T1-weighted breast MR."""

from etils import epath

from mtseg.records import builder
from mtseg.tasks.label_space import parse_tasks


class Builder(builder.TaskBuilder):
    """Pectoral muscle in T1-weighted breast MR, as triplanar patches or whole volumes."""

    VERSION = builder.TaskBuilder.VERSION
    RELEASE_NOTES = builder.RELEASE_NOTES
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    `phantom_*` needs no download; other sources are prepared with `mtseg-prepare`.
    """
    TASK = parse_tasks("breast").selections[0].task
    BUILDER_CONFIGS = builder.record_configs(TASK)
    # An editable install has no package folder that TFDS could find by itself.
    code_path = epath.Path(__file__)
    pkg_dir_path = code_path.parent
    _make_info = builder.TaskBuilder.dataset_info_from_configs

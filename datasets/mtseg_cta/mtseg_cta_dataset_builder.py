"""TFDS builder: Coronary arteries in cardiac CT angiography."""

from etils import epath

from mtseg.records import builder
from mtseg.tasks.label_space import parse_tasks


class Builder(builder.TaskBuilder):
    """Coronary arteries in cardiac CT angiography, as triplanar patches or whole volumes."""

    VERSION = builder.TaskBuilder.VERSION
    RELEASE_NOTES = builder.RELEASE_NOTES
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    For `imagecas_*`: `N.img.nii.gz` beside `N.label.nii.gz`. For `asoca_*`: `*/CTCA/NAME.nrrd` and
    `*/Annotations/NAME.nrrd`. `phantom_*` needs no download.
    """
    TASK = parse_tasks("cta").selections[0].task
    BUILDER_CONFIGS = builder.record_configs(TASK)
    # An editable install has no package folder that TFDS could find by itself.
    code_path = epath.Path(__file__)
    pkg_dir_path = code_path.parent
    _make_info = builder.TaskBuilder.dataset_info_from_configs

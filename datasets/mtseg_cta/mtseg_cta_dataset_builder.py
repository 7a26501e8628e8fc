"""TFDS builder: Coronary arteries in cardiac CT angiography."""

from etils import epath

from mtseg import records
from mtseg.tasks import parse_tasks


class Builder(records.TaskBuilder):
    """Coronary arteries in cardiac CT angiography, as triplanar patches or whole volumes."""

    VERSION = records.TaskBuilder.VERSION
    RELEASE_NOTES = records.RELEASE_NOTES
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    For `imagecas_*`: `N.img.nii.gz` beside `N.label.nii.gz`. For `asoca_*`: `*/CTCA/NAME.nrrd` and
    `*/Annotations/NAME.nrrd`. `phantom_*` needs no download.
    """
    TASK = parse_tasks("cta").selections[0].task
    BUILDER_CONFIGS = records.record_configs(TASK)
    # An editable install has no package folder that TFDS could find by itself.
    code_path = epath.Path(__file__)
    pkg_dir_path = code_path.parent
    _make_info = records.TaskBuilder.dataset_info_from_configs

"""A task of one's own needs a TOML file and no code."""

import numpy as np

from mtseg.cli import prepare
from mtseg.prepared import open_patches, read_volumes
from tests.datasets.test_builders import write_challenge_folder

TASK_FILE = """
name = "cerebellum"
title = "Cerebellum in T1-weighted MR"
modality = "MR"
citation = "none"

[spacing]
rule = "fixed"
mm = 1.0

[decision]
rule = "operating_point"

[[classes]]
name = "whole_cerebellum"
title = "Cerebellum"

[sources.miccai2012.labels]
background = ["0-37", "44-207"]
whole_cerebellum = ["38-41"]

[sources.miccai2012.split]
train = ["1000", "1001"]
test = ["1010"]
"""


def test_a_task_file_is_prepared_like_a_shipped_task(tmp_path):
    (tmp_path / "scans").mkdir()
    write_challenge_folder(tmp_path / "scans")
    (tmp_path / "mine.toml").write_text(TASK_FILE)
    flags = ["--manual-dir", tmp_path / "scans", "--data-dir", tmp_path / "data"]
    arguments = [f"{tmp_path}/mine.toml:miccai2012", "--patches-per-class", 6, *flags]
    assert prepare.main([str(a) for a in arguments]) == 0

    records = open_patches(tmp_path / "data", "cerebellum", "miccai2012")
    assert np.bincount(records.class_index).tolist() == [12, 12]
    (test_scan,) = read_volumes(tmp_path / "data", "cerebellum", "miccai2012", "test")
    assert test_scan.name == "1010"
    assert set(np.unique(test_scan.class_index_map)) == {0, 1}

"""Package lists; everything else is in setup.cfg.

The builders live in `datasets/` and ship as `mtseg_datasets`: a top-level package called
`datasets` would collide with Hugging Face's.
"""

from setuptools import find_packages, setup

BUILDERS = [
    "mtseg_brain",
    "mtseg_breast",
    "mtseg_cta",
    "mtseg_heart",
    "mtseg_hippocampus",
]
BUILDER_FILES = ["README.md", "CITATIONS.bib", "TAGS.txt"]

setup(
    package_dir={
        "mtseg": "mtseg",
        "mtseg_datasets": "datasets",
    },  # no __init__.py there: a namespace
    packages=[
        *find_packages(include=["mtseg", "mtseg.*"]),
        *(f"mtseg_datasets.{name}" for name in BUILDERS),
    ],
    package_data={
        "mtseg": ["py.typed"],
        "mtseg.experiments.report": ["page.css", "slice_viewer.js"],
        "mtseg.models": ["packaged/*", "packaged/*/*"],
        "mtseg.serving": ["files/*"],
        "mtseg.tasks": ["files/*.toml"],
        "mtseg.viewer": ["page/*", "page/niivue/*"],
        **{f"mtseg_datasets.{name}": BUILDER_FILES for name in BUILDERS},
    },
)

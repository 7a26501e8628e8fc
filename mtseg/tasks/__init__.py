"""Tasks and their classes, read from TOML files.

Begin with `task_file.read_task` and `label_space.LabelSpace`, which combines the classes of several
tasks into the outputs of one network. `files/` has the tasks that ship with mtseg.
"""

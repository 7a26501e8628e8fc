"""Tasks and their classes, read from TOML files.

Begin with `label_space.parse_tasks`, which reads the value of `--tasks`. A `task.Task` is what one
task file describes, read by `task_file`; a `label_space.LabelSpace` combines the classes of several
tasks into the outputs of one network; `label_table` says which number, name and colour each class
has in label files. `files/` has the tasks that ship with mtseg.
"""

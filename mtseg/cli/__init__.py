"""The commands: one module each, with `make_parser` and `main`, and little else.

Begin with `command.run`, which all of them go through. Modules that need TensorFlow are imported
inside functions, so that `--help` and wrong arguments are answered at once.
"""

"""The one exception that means "the input is wrong", as opposed to a defect of mtseg."""


class InputError(ValueError):
    """A scan, label map, task file, flag or folder that cannot be used as it is.

    The message is a single line for the person at the keyboard: it names the file, what is
    wrong with it and what to do. Commands print it without a traceback and exit with code 2.
    """

"""A small task file, which the tests of this folder change in one place each."""

import pytest

from mtseg.errors import InputError

KIDNEY = """
name = "kidney"
title = "Kidney and cyst"
modality = "MR"
citation = "none"

[spacing]
rule = "fixed"
mm = 2

[decision]
rule = "argmax"

[[classes]]
name = "kidney"
title = "Kidney"

[[classes]]
name = "cyst"
title = "Cyst"

[sources.miccai2012.labels]
background = [0, "7-9"]
kidney = [1, "20-22"]
cyst = [5]

[sources.miccai2012.split]
train = ["a", "b"]
test = ["c"]
"""


def refused(call, *arguments):
    """The message of the InputError, which is one line."""
    with pytest.raises(InputError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert message == " ".join(message.split()), message
    return message

"""Damage by number: the same random numbers always give the same damaged bytes or values."""

import copy
import json
import re

NUMBERS = [0, 1, -1, 2, 255, 256, 65_535, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]

VALUES = [
    None, True, False, 0, -1, 1e308, 1e999, -1e999, float("nan"), 2**63, 10**30, "", "x", "..",
    "../../outside", "/etc/passwd", "a\x00b", "\ud800", "\x1b[2J", "x" * 5000, [], {}, [[]],
    [None], {"": {}}, {"a": {"b": [1]}}, [1, [2, [3]]],
]  # fmt: skip
"""What JSON may have in any place."""

TOML_VALUES = [
    "0", "-1", "1e308", "inf", "-inf", "nan", '""', '"x"', '".."', '"../../x"', '"/etc/passwd"',
    "[]", "{}", "[[]]", "[[[1]]]", "true", '"\\u0000"', "1979-05-27", "[1, 'a']", "{ a = 1 }",
    "9223372036854775807", "99999999999999999999", '"""\n"""', "''", "'\\'", "0x_1", "[", '"',
]  # fmt: skip
"""What may stand behind an equals sign."""


def damage_bytes(content, rng, start=0):
    """Damages bytes in one to three places, none of them before `start`."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if len(content) <= start + 1:
            break
        place = int(rng.integers(start, len(content)))
        kind = rng.integers(6)
        if kind == 0:
            for _ in range(rng.integers(1, 8)):
                content[rng.integers(start, len(content))] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            size = int(rng.choice([1, 2, 4, 8]))
            order = ["little", "big"][rng.integers(2)]
            number = NUMBERS[rng.integers(len(NUMBERS))] % 256**size
            content[place : place + size] = number.to_bytes(size, order)
        elif kind == 2:
            del content[place:]
        elif kind == 3:
            del content[place : place + int(rng.integers(1, 40))]
        elif kind == 4:
            content[place:place] = rng.bytes(int(rng.integers(1, 64)))
        else:
            other = int(rng.integers(start, len(content)))
            content[place:place] = content[other : other + int(rng.integers(1, 200))]
    return bytes(content)


def damage_text(text, rng):
    """Damages a text by its lines, by the values behind its equals signs, or as bytes."""
    lines = text.splitlines()
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(lines))) if lines else 0
        kind = rng.integers(6)
        if not lines:
            break
        if kind == 0:
            del lines[place]
        elif kind == 1:
            lines.insert(int(rng.integers(len(lines) + 1)), lines[place])
        elif kind < 5:
            value = TOML_VALUES[rng.integers(len(TOML_VALUES))]
            lines[place] = re.sub("=.*", lambda _, v=value: f"= {v}", lines[place])
        else:
            return damage_bytes("\n".join(lines).encode(), rng)
    return "\n".join(lines).encode()


def damage_json(content, rng):
    """A value as JSON text with one to three changes of its parts, or damaged as bytes."""
    content = copy.deepcopy(content)
    if rng.random() < 0.15:
        return damage_bytes(json.dumps(content).encode(), rng)
    for _ in range(rng.integers(1, 4)):
        places = [*_places(content)]
        if not places:
            break
        holder, key = places[rng.integers(len(places))]
        kind = rng.integers(5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif kind == 2 and isinstance(holder, dict):
            holder[str(VALUES[rng.integers(len(VALUES))])] = holder.pop(key)
        else:
            other_holder, other_key = places[rng.integers(len(places))]
            values = [VALUES[rng.integers(len(VALUES))], other_holder[other_key]]
            holder[key] = copy.deepcopy(values[int(rng.random() < 0.2)])
    return json.dumps(content).encode()


def _places(content):
    """Every part of a value: what holds it, and its key or place there."""
    items = content.items() if isinstance(content, dict) else ()
    items = enumerate(content) if isinstance(content, list) else items
    for key, value in list(items):
        yield content, key
        yield from _places(value)

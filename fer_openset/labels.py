"""Expression names and what is known or open: pure functions over strings."""

import difflib

from fer_openset.errors import UserError

# The order of RAF-DB's label files, 1..7. Everything else goes by name.
BASIC = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
CONTEMPT = "contempt"
# Du, Tao and Martinez (2014), in the order of RAF-DB's compound label files, 1..11.
COMPOUND = (
    "happily_surprised",
    "happily_disgusted",
    "sadly_fearful",
    "sadly_angry",
    "sadly_surprised",
    "sadly_disgusted",
    "fearfully_angry",
    "fearfully_surprised",
    "angrily_surprised",
    "angrily_disgusted",
    "disgustedly_surprised",
)
EXPRESSIONS = (*BASIC, CONTEMPT, *COMPOUND)
FERPLUS_COLUMNS = (*"neutral happiness surprise sadness anger disgust fear contempt unknown NF".split(),)


def check_name(name, choices, what):
    """Return `name` if it is one of `choices`. Raises: UserError that suggests the nearest choice."""
    if name in choices:
        return name
    near = difflib.get_close_matches(str(name), [str(c) for c in choices], n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    there_is = f"Choose from: {', '.join(map(str, choices))}." if choices else f"There is no {what} to choose here."
    raise UserError(f"unknown {what} {name!r}{hint} {there_is}")


def parse_open(open_classes, classes):
    """Turn `"surprise+fear"` or a list of names into a tuple in the order of `classes`, without repeats.

    Raises: UserError for an unknown name, for none, and when no class would stay known.
    """
    names = open_classes.split("+") if isinstance(open_classes, str) else list(open_classes)
    names = [check_name(n.strip() if isinstance(n, str) else n, classes, "expression") for n in names if n != ""]
    if not names:
        raise UserError(f"open_classes is empty: name at least one of {', '.join(classes)}.")
    chosen = tuple(c for c in classes if c in names)
    left = len(classes) - len(chosen)
    if left < 2:
        raise UserError(
            f"open_classes {'+'.join(chosen)} leaves {left} of {len(classes)} classes known; at least two must stay."
        )
    return chosen


def join_open(open_classes):
    """The one spelling of an open-class set in tables, file names and figures: names joined by `+`."""
    return "+".join(open_classes)


def known_classes(classes, open_classes):
    """The closed-set classes, in the order of `classes`; their positions are the network's outputs 0..K-1."""
    return tuple(c for c in classes if c not in open_classes)

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
# In the order of AffectNet's numbers, 0..7.
AFFECTNET = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", CONTEMPT)
# Faces whose crowd votes name two expressions and agree on none: FERPlus's stand-in for compound expressions (ours).
AMBIGUOUS = "ambiguous"
OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")  # CIFAR-10's order
# A name for many classes at once, where a dataset has them all.
SETS = {"compound": COMPOUND}
FERPLUS_COLUMNS = (*"neutral happiness surprise sadness anger disgust fear contempt unknown NF".split(),)


def check_name(name, choices, what):
    """Return `name` if it is one of `choices`. Raises: UserError that suggests the nearest choice."""
    if name in choices:
        return name
    near = difflib.get_close_matches(str(name), [str(c) for c in choices], n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    there_is = f"Choose from: {', '.join(map(str, choices))}." if choices else f"There is no {what} to choose here."
    raise UserError(f"unknown {what} {name!r}{hint} {there_is}")


def split_names(open_classes):
    """The single names in `"surprise+fear"` or in a list; nothing is checked but that they are there."""
    names = open_classes.split("+") if isinstance(open_classes, str) else list(open_classes)
    return [n.strip() if isinstance(n, str) else n for n in names if n != ""]


def check_open(open_classes, choices):
    """The classes that `open_classes` names, each one of `choices`; the name of a set stands for all its members.

    Raises: UserError that suggests the nearest choice.
    """
    sets = {name: members for name, members in SETS.items() if set(members) <= set(choices)}
    what = "expression" if set(choices) & set(EXPRESSIONS) else "class"
    names = [check_name(name, (*choices, *sets), what) for name in split_names(open_classes)]
    return [member for name in names for member in sets.get(name, (name,))]


def parse_open(open_classes, classes):
    """Turn `"surprise+fear"` or a list of names into a tuple in the order of `classes`, without repeats.

    `compound` stands for the eleven compound expressions of a dataset that has them.
    Raises: UserError for an unknown name, for none, and when no class would stay known.
    """
    names = check_open(open_classes, classes)
    if not names:
        raise UserError(f"open_classes is empty: name at least one of {', '.join(classes)}.")
    chosen = tuple(c for c in classes if c in names)
    left = len(classes) - len(chosen)
    if left < 2:
        raise UserError(
            f"open_classes {join_open(chosen)} leaves {left} of {len(classes)} classes known; at least two must stay."
        )
    return chosen


def join_open(open_classes):
    """The one spelling of an open-class set in tables, file names and figures: names joined by `+`, sets by their own.

    `parse_open` reads it back.
    """
    names = list(open_classes)
    for name, members in SETS.items():
        if set(members) <= set(names):
            names = [n for n in names if n not in members] + [name]
    return "+".join(names)


def known_classes(classes, open_classes):
    """The closed-set classes, in the order of `classes`; their positions are the network's outputs 0..K-1."""
    return tuple(c for c in classes if c not in open_classes)

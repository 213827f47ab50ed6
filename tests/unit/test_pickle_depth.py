"""What the pickle in a torch file may hold: anything torch writes, nothing that takes for ever to hash or to print."""

import io
import pickle
from collections import OrderedDict

import pytest
from guarded import answer, shared_tuples

from fer_openset.pickle_depth import DEEPEST, check_torch_pickles

STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n%sX\x03\x00\x00\x00cpuK\x04tQ."


def check(raw, pickles=1, most_bytes=10_000):
    check_torch_pickles(io.BytesIO(raw), most_bytes, pickles)


def top_down(steps=60):
    """Lists that are put into each other while empty and filled only afterwards."""
    made = b"".join(b"]q" + bytes([n]) for n in range(steps))
    return made + b"".join(b"h%c(h%ch%ce" % (n, n + 1, n + 1) for n in range(steps - 1))


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (shared_tuples() + b"}h\x00Ns.", "over and over"),
        (shared_tuples() + b"}(h\x00Nu.", "over and over"),
        (shared_tuples() + b"cbuiltins\nset\n]h\x00a\x85R.", "over and over"),
        (shared_tuples() + b"ccollections\nOrderedDict\n]h\x00N\x86a\x85R.", "over and over"),
        (shared_tuples() + STORAGE % b"h\x00", "over and over"),
        (b"]q\x00" + b"](h\x00h\x00eq\x00" * 60 + b")R.", "over and over"),
        (b"]q\x00" + b"]h\x00ah\x00aq\x00" * 60 + b")R.", "over and over"),
        (b"}q\x00" + b"}(K\x01h\x00K\x02h\x00uq\x00" * 60 + b")R.", "over and over"),
        (b"ccollections\nOrderedDict\nq\x01)Rq\x00" + b"h\x01)Rh\x00h\x00\x86bq\x00" * 60 + b".", "over and over"),
        (top_down() + b")R.", "changes after it was used"),
        (b"N" + b"\x85" * 200_000 + b".", f"nests more than {DEEPEST} deep"),
        (b"N" + b"\x85" * 200_000 + b"}h\x00Ns.", f"nests more than {DEEPEST} deep"),
        (b"K\x01)R.", "calls something that has no name"),
        (b"ccollections\nOrderedDict\n]R.", "calls something that has no name"),
        (b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x08\x00\x00\x00punycode\x86R.", "other than latin1"),
        (b"c_codecs\nencode\n\x85.", "hands on a function"),
        (b"cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x01\x85R.", "bytearray"),
        ((STORAGE % b"X\x01\x00\x00\x000").replace(b"K\x04", b"J\xff\xff\xff\x7f"), "more numbers than it has bytes"),
        (b"\x95" + bytes(8) + b".", "FRAME has no place"),
        (b"2.", "DUP has no place"),
        (b"N", "STOP"),
    ],
)
def test_what_torch_would_choke_on(program, words):
    assert words in answer(check, b"\x80\x02" + program)


def test_pickles_that_follow_each_other_are_all_looked_through():
    good, bad = pickle.dumps({"a": [1, 2.5, None, True]}, 2), b"\x80\x02" + shared_tuples() + b"."
    check(good * 5, pickles=5)
    check(good * 5 + bad, pickles=5)  # what follows is no pickle but numbers
    assert "over and over" in answer(check, good * 4 + bad, 5)


def test_what_torch_writes_passes():
    once, rates = (0.9, 0.999), {"lr": 0.1}
    nested = [1]
    for _ in range(30):
        nested = {"a": nested}
    groups = [{"betas": once, "params": [n], "shared": rates, "decay": None} for n in range(300)]
    weights = OrderedDict({f"layer{n}.weight": b"\xff\x00" * n for n in range(50)})
    copy = {name: bytes(value) for name, value in weights.items()}
    for content in ({"optimizer": groups, "nested": nested}, {"ema": copy, "w": weights}, {}, set()):
        check(pickle.dumps(content, 2))

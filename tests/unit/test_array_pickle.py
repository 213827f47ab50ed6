"""Pickles of arrays that would take for ever, or all memory, are refused at once; honest ones are read as they were."""

import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest
from guarded import one_sentence, shared_tuples

from fer_openset.array_pickle import read_arrays

F4 = b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R"
LARGE = b"\x8a\xff" + b"\xff" * 254 + b"\x7f"  # an integer of 2039 bits
LATIN1 = b"X\x06\x00\x00\x00latin1"


def text(length):
    return b"X" + struct.pack("<I", length) + b"a" * length


def from_buffer(shape):
    return b"cnumpy.core.numeric\n_frombuffer\n(C\x04abcd" + F4 + shape + b"X\x01\x00\x00\x00CtR."


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (b"}h\x00Ns.", "it asks for a name of type tuple"),
        (b"}(h\x00Nu.", "it asks for a name of type tuple"),
        (b"(h\x00Nd.", "it asks for a name of type tuple"),
        (b"ccollections\nOrderedDict\n]h\x00N\x86a\x85R.", "it asks for a name of type tuple"),
        (b"(h\x00\x91.", "it asks for a name of type tuple"),
        (b"\x8f(h\x00\x90.", "it asks for a name of type tuple"),
        (b"cnumpy\ndtype\nh\x00\x85R.", "numbers of the type (a tuple)"),
        (b"c_codecs\nencode\n" + text(1) + b"h\x00\x86R.", "the encoding (a tuple)"),
        (from_buffer(b"h\x00"), "an array without a shape"),
        (from_buffer(b"h\x00\x85"), "an array without a shape"),
        (b"cnumpy\nndarray\n)R(K\x01h\x00" + F4 + b"\x89C\x04abcdtb.", "an array without a shape"),
        (b"h\x00.", "expected {name: array}"),
        (b"}X\x01\x00\x00\x00ah\x00s.", "expected {name: array}"),
    ],
)
def test_tuples_that_hold_each_other_are_neither_hashed_nor_printed(tmp_path, program, words):
    (tmp_path / "w.pkl").write_bytes(b"\x80\x04" + shared_tuples() + program)
    assert words in one_sentence(read_arrays, tmp_path / "w.pkl")


@pytest.mark.parametrize("sides", [1, 9, 20_000])
def test_the_sides_of_an_array_are_bounded_before_they_are_multiplied(tmp_path, sides):
    shape = b"](" + b"h\x00" * sides + b"e"
    (tmp_path / "w.pkl").write_bytes(b"\x80\x03" + LARGE + b"q\x00" + from_buffer(shape))
    assert "an array without a shape" in one_sentence(read_arrays, tmp_path / "w.pkl")
    (tmp_path / "w.pkl").write_bytes(b"\x80\x03" + from_buffer(b"(K\x01K\x02K\x03t"))
    assert "an array of shape (1, 2, 3) comes with 4 bytes" in one_sentence(read_arrays, tmp_path / "w.pkl")


def test_the_same_bytes_are_not_copied_over_and_over(tmp_path):
    path, start = tmp_path / "w.pkl", b"\x80\x03" + text(20_000) + b"q\x00" + LATIN1 + b"q\x01"
    path.write_bytes(start + b"c_codecs\nencode\nq\x02(" + b"h\x02h\x00h\x01\x86R" * 200 + b"l.")
    assert "it asks for the same things over and over" in one_sentence(read_arrays, path)
    state = b"cnumpy\nndarray\n)R(K\x01M\x88\x13\x85" + F4 + b"\x89h\x00tb"  # 5000 numbers from a string of Python 2
    path.write_bytes(start + b"(" + state * 200 + b"l.")
    assert "it asks for the same things over and over" in one_sentence(read_arrays, path)
    pairs = b"](" + b"".join(b"M" + struct.pack("<H", n) + b"N\x86" for n in range(2000)) + b"eq\x02"
    path.write_bytes(b"\x80\x03" + pairs + b"ccollections\nOrderedDict\nq\x03(" + b"h\x03h\x02\x85R" * 1000 + b"l.")
    assert "it asks for the same things over and over" in one_sentence(read_arrays, path)
    array = np.zeros(5000, np.float32)
    path.write_bytes(pickle.dumps({f"{n}": array for n in range(200)}, 4))
    assert "names the same arrays over and over" in one_sentence(read_arrays, path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_honest_files_hold_what_they_held(tmp_path, protocol):
    rng = np.random.default_rng(0)
    arrays = {f"layer{n}.weight": rng.standard_normal((2,) * n).astype(np.float32) for n in range(9)}
    arrays |= {"tied": arrays["layer8.weight"], "empty": np.zeros((0, 7), np.int64)}
    content = {"state_dict": OrderedDict(arrays), "epoch": 3, "rates": {10: 0.1, None: 1.0, "x": (1, (2,))}}
    if protocol > 3:  # before, sets are named like any function
        content |= {"tags": {"a", 1}, "frozen": frozenset({"b"})}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol))
    found = read_arrays(tmp_path / "w.pkl")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array)


def test_an_ordered_dict_of_python_2_is_read(tmp_path):
    """It gives its pairs, as lists, to the call."""
    array = pickle.dumps(np.arange(3.0), 2)[2:-1]
    program = b"\x80\x02ccollections\nOrderedDict\n](](U\x04fc.b" + array + b"ee\x85R."
    (tmp_path / "w.pkl").write_bytes(program)
    assert read_arrays(tmp_path / "w.pkl")["fc.b"].tolist() == [0.0, 1.0, 2.0]

"""Weights in every form they come in: the same tensors as a plain load, and nothing from a file is ever run."""

import builtins
import codecs
import io
import os
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from guarded import one_sentence, shared_tuples
from safetensors.torch import save_file

from fer_openset.array_pickle import read_arrays
from fer_openset.errors import UserError
from fer_openset.weight_files import read_weights, sha256

ARRAYS = {
    "conv1.weight": np.random.default_rng(0).standard_normal((3, 2, 5, 5)).astype(np.float32),
    "turned": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "big_endian": np.arange(4, dtype=">f4"),
    "count": np.array(7, np.int64),
    "half": np.ones(3, np.float16),
    "none": np.zeros((0, 3), np.float32),
}
TENSORS = {name: torch.from_numpy(np.array(a, a.dtype.newbyteorder("="))) for name, a in ARRAYS.items()}


class Payload:
    """Unpickled the plain way it makes a file, which shows that it ran."""

    def __init__(self, path, function=None):
        self.path, self.function = str(path), function or builtins.open

    def __reduce__(self):
        arguments = {exec: (f"open({self.path!r}, 'w').close()",), os.system: (f"touch '{self.path}'",)}
        return self.function, arguments.get(self.function, (self.path, "w"))


def refused(path, words):
    with pytest.raises(UserError) as error:
        read_weights(path)
    message = str(error.value)
    assert words in message and message.startswith(str(path)) and "\n" not in message and len(message) < 500
    return message


def same(found, expected=TENSORS):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


@pytest.mark.parametrize("kind", [dict, OrderedDict])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_arrays_is_read_as_it_was_written(tmp_path, protocol, kind):
    path = tmp_path / "resnet50_ft_weight.pkl"
    path.write_bytes(pickle.dumps(kind(ARRAYS), protocol=protocol))
    tensors, header = read_weights(path)
    same(tensors)
    assert header == {}
    tensors["conv1.weight"].zero_()  # memory of their own, writable
    path.write_bytes(pickle.dumps({"state_dict": ARRAYS}, protocol=protocol))
    same(read_weights(path)[0])


def test_a_pickle_of_python_2_is_read(tmp_path):
    """Python 2 knows no bytes: the numbers arrive as a string, numpy's module under its old name."""
    raw = np.array([1.5, -2.0, 200.25], "<f4").tobytes()
    program = b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    program += (
        b"(K\x01(K\x03tcnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    program += b"\x89U" + bytes([len(raw)]) + raw + b"tbs."
    (tmp_path / "w.pkl").write_bytes(program)
    assert np.array_equal(pickle.loads(program, encoding="latin1")["w"], [1.5, -2.0, 200.25])
    assert read_arrays(tmp_path / "w.pkl")["w"].tolist() == [1.5, -2.0, 200.25]


@pytest.mark.parametrize("function", [open, exec, eval, os.system, getattr, __import__, codecs.decode])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_payload_in_a_pickle_is_refused_and_has_not_run(tmp_path, protocol, function):
    trace, path = tmp_path / "trace", tmp_path / "resnet50_ft_weight.pkl"
    path.write_bytes(pickle.dumps({**ARRAYS, "fc.bias": Payload(trace, function)}, protocol=protocol))
    message = refused(path, "refused, it asks for ")
    assert f".{function.__name__} where weights need only arrays; nothing in it was run" in message
    assert not trace.exists()


def test_the_payload_of_these_tests_does_run_in_a_plain_load(tmp_path):
    for function in (open, exec, os.system):
        data = pickle.dumps({"w": Payload(tmp_path / function.__name__, function)})
        pickle.loads(data)
        assert (tmp_path / function.__name__).exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", ["pth", "pkl", "bin"])
def test_a_torch_file_is_read_whatever_its_name(tmp_path, legacy, suffix):
    path = tmp_path / f"resnet18_msceleb.{suffix}"
    for content in (TENSORS, {"state_dict": TENSORS, "epoch": 3}, OrderedDict(TENSORS)):
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        same(read_weights(path)[0])
    torch.save({f"module.{name}": tensor for name, tensor in TENSORS.items()}, path)
    same(read_weights(path)[0])


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("function", [open, exec, os.system])
def test_a_payload_in_a_torch_file_is_refused_and_has_not_run(tmp_path, legacy, function):
    trace, path = tmp_path / "trace", tmp_path / "resnet18_msceleb.pth"
    torch.save({"state_dict": TENSORS, "more": Payload(trace, function)}, path,
               _use_new_zipfile_serialization=not legacy)  # fmt: skip
    assert "nothing in it was run" in refused(path, f"{function.__name__} where weights need only tensors")
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # as it would have been


def test_safetensors_are_read(tmp_path):
    save_file({name: tensor.contiguous() for name, tensor in TENSORS.items()}, tmp_path / "face.pth")
    same(read_weights(tmp_path / "face.pth")[0])


@pytest.mark.parametrize("keep", [0, 5, 12, 20, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "w"
    torch.save(TENSORS, tmp_path / "w.pth")
    torch.save(TENSORS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file({"w": TENSORS["conv1.weight"]}, tmp_path / "w.safetensors")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(ARRAYS))
    for name in ("w.pth", "old.pth", "w.safetensors", "w.pkl"):
        path.write_bytes((tmp_path / name).read_bytes()[:keep])
        refused(path, "no readable")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "expected {name: array}"),
        ({"a": "text"}, "expected {name: array}"),
        ({1: ARRAYS["half"]}, "expected {name: array}"),
        ({}, "holds no weights"),
        ({"a": np.array(["x", "y"])}, "numbers of the type 'U1'"),
        ({"a": np.array([{}, []], dtype=object)}, "numbers of the type 'O8'"),
        ({"a": np.zeros(2, [("x", "f4"), ("y", "i4")])}, "numbers of the type 'V8'"),
        ({"a": np.ones(3, np.complex64)}, "numbers of the type 'c8'"),
    ],
)
def test_other_things_in_a_pickle_are_named(tmp_path, content, words):
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    refused(path, words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.ones(2), "holds a Tensor; expected named tensors"),
        ([torch.ones(2)], "holds a list"),
        ({"a": 3}, "'a' is no tensor of plain numbers"),
        ({"a": torch.ones(2).to_sparse()}, "'a' is no tensor of plain numbers"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "'a' is no tensor of plain numbers"),
        ({"a": torch.empty(2, device="meta")}, "'a' is no tensor of plain numbers"),
        ({}, "holds no weights"),
    ],
)
def test_other_things_in_a_torch_file_are_named(tmp_path, content, words):
    torch.save(content, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", words)


def test_numbers_in_a_damaged_pickle_cost_no_memory(tmp_path):
    """A place far out in the memo, and bytes that are promised but absent: the C reader makes room for either."""
    path = tmp_path / "w.pkl"
    path.write_bytes(b"\x80\x04}r\xff\xff\xff\x7f.")
    assert read_arrays(path) == {}
    path.write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"few.")
    refused(path, "no readable weights")


def test_state_is_given_to_arrays_only(tmp_path):
    """BUILD may set attributes of whatever lies on the stack, even of the permitted functions."""
    path = tmp_path / "w.pkl"
    path.write_bytes(b"\x80\x02c_codecs\nencode\n}U\x01aU\x01bsb.")
    refused(path, "it asks for a state for method")


def test_a_torch_file_that_promises_more_than_it_holds_is_refused(tmp_path):
    """Without the check torch would hand out memory that lies behind the file's."""
    path, changed = tmp_path / "w.pth", tmp_path / "changed.pth"
    torch.save({"w": torch.arange(4, dtype=torch.float32)}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w", zipfile.ZIP_STORED) as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith("data.pkl"):
                assert data.count(b"K\x04") == 2  # elements of the storage, length of the tensor
                data = data.replace(b"K\x04", b"M\xff\xff")
            new.writestr(item.filename, data)
    refused(changed, "no readable torch file")


def write_torch_file(path, program, legacy):
    """A torch file whose content is this pickle, in either form."""
    if legacy:  # magic number, protocol, machine, content, keys of the storages
        start = [pickle.dumps(part, 2) for part in (torch.serialization.MAGIC_NUMBER, 1001, {})]
        path.write_bytes(b"".join([*start, program, pickle.dumps([], 2)]))
        return
    torch.save({}, path)
    with zipfile.ZipFile(path) as old:
        items = {item: old.read(item) for item in old.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for item, data in items.items():
            new.writestr(item.filename, program if item.filename.endswith("data.pkl") else data)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_torch_file_that_would_take_for_ever_is_refused(tmp_path, legacy):
    path, start = tmp_path / "w.pth", b"\x80\x02" + shared_tuples()
    for program in (b"}h\x00Ns.", b"h\x00)R.", b"ctorch.serialization\n_get_layout\nh\x00\x85R."):
        write_torch_file(path, start + program, legacy)
        assert "no readable torch file (it " in one_sentence(read_weights, path)
    write_torch_file(path, b"\x80\x02}K\x01K\x02\x86Ns.", legacy)
    assert "what stands under a name of type tuple is no tensor" in one_sentence(read_weights, path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_with_all_that_training_leaves_is_read(tmp_path, legacy):
    net, betas = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)), (0.9, 0.999)
    optimizer = {  # as torch.optim.AdamW gives it
        "state": {n: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2, 2)} for n in range(4)},
        "param_groups": [
            {"lr": 0.1, "betas": betas, "amsgrad": False, "foreach": None, "params": [n]} for n in range(4)
        ],
    }
    content = {
        "model": net.state_dict(),
        "ema": {name: tensor.clone() for name, tensor in net.state_dict().items()},
        "optimizer": optimizer,
        "schedule": {"milestones": Counter([2, 4]), "last_epoch": 0, "_last_lr": [0.1] * 4},
        "rng": torch.get_rng_state(),
        "arguments": {"sizes": [(1, 2)] * 9, "raw": b"\xff\x00", "tags": {"a"}, "dtype": torch.float16},
        "tied": [net[0].weight] * 20,
        "wide": torch.zeros(1).expand(10**6),
    }
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    same(read_weights(tmp_path / "w.pth")[0], net.state_dict())


def test_a_compressed_torch_file_is_refused(tmp_path):
    """A few kilobytes could unpack to anything."""
    torch.save(TENSORS, tmp_path / "w.pth")
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as old,
        zipfile.ZipFile(tmp_path / "c.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for item in old.infolist():
            new.writestr(item.filename, old.read(item))
    refused(tmp_path / "c.pth", "it is compressed")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    refused(tmp_path / "none.pth", "there is no such file of weights")
    refused(tmp_path, "there is no such file of weights")
    with pytest.raises(UserError, match="none.pth: there is no such file"):
        sha256(tmp_path / "none.pth")
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_buffer_is_no_program(tmp_path):
    (tmp_path / "w.pkl").write_bytes(b"no pickle at all")
    refused(tmp_path / "w.pkl", "no readable weights: neither torch's nor safetensors, nor a pickle of arrays")
    out = io.BytesIO()
    np.save(out, ARRAYS["half"])
    (tmp_path / "w.npy").write_bytes(out.getvalue())
    refused(tmp_path / "w.npy", "no readable weights")

"""Tensors on disk: safetensors only, written atomically; nothing is ever unpickled."""

import json

import torch
from safetensors import SafetensorError, safe_open

from fer_openset.atomic import atomic_path
from fer_openset.errors import UserError

CHECKPOINT = "checkpoint.safetensors"  # in the folder of a training
# The names that the format has for what we store.
DTYPES = {torch.float64: "F64", torch.int64: "I64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
          torch.float16: "F16", torch.uint8: "U8", torch.bool: "BOOL"}  # fmt: skip


def save_tensors(path, tensors, **header):
    """Write a flat dict of tensors with a JSON header (any JSON value) in one atomic file.

    One tensor after the other: the library's own writer holds two more copies of all of them in memory.
    """
    names = sorted(tensors, key=lambda name: -tensors[name].element_size())  # each starts at a multiple of its size
    entries, end = {"__metadata__": {"header": json.dumps(header)}}, 0
    for name in names:
        tensor, start = tensors[name], end
        end = start + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    head = json.dumps(entries).encode()
    head += b" " * (-len(head) % 8)
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        handle.write(len(head).to_bytes(8, "little") + head)
        for name in names:
            handle.write(_bytes(tensors[name]))


def _bytes(tensor):
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""


def load_tensors(path, remedy="delete it and run the step again"):
    """Read (tensors, header) back. Raises: UserError when the file is missing or not what `save_tensors` writes."""
    try:
        with safe_open(path, framework="pt") as handle:
            header = dict(json.loads((handle.metadata() or {}).get("header", "{}")))
            return {name: handle.get_tensor(name) for name in handle.keys()}, header  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; run the step that writes it first.") from None
    except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: no readable safetensors file ({error}); {remedy}.") from None


def flatten_optimizer(optimizer):
    """An optimiser's state as a flat dict of tensors: `PARAMETER.NAME`."""
    state = optimizer.state_dict()["state"]
    return {f"{p}.{k}": torch.as_tensor(v) for p, s in state.items() for k, v in s.items() if v is not None}


def restore_optimizer(optimizer, flat):
    """Put back what `flatten_optimizer` took, laid out in memory like the weights: a fused step reads both in order."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    state = {}
    for name, tensor in flat.items():
        number, key = name.split(".")
        weight = weights[int(number)]
        if tensor.shape == weight.shape:
            tensor = torch.empty_like(weight.detach()).copy_(tensor)
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

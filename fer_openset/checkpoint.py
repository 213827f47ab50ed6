"""Tensors on disk: safetensors only, written atomically; nothing is ever unpickled."""

import json

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fer_openset.atomic import atomic_path
from fer_openset.errors import UserError


def save_tensors(path, tensors, **header):
    """Write a flat dict of tensors with a JSON header (any JSON value) in one atomic file."""
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    packed = save(contiguous, metadata={"header": json.dumps(header)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(packed)  # not safetensors' own save_file: on a full disk it raises no OSError


def load_tensors(path):
    """Read (tensors, header) back. Raises: UserError when the file is missing or not what `save_tensors` writes."""
    try:
        with safe_open(path, framework="pt") as handle:
            header = dict(json.loads((handle.metadata() or {}).get("header", "{}")))
            return {name: handle.get_tensor(name) for name in handle.keys()}, header  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; run the step that writes it first.") from None
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: no readable safetensors file ({error}); delete it and run the step again.") from None


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

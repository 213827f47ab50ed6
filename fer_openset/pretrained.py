"""Networks that start from weights trained elsewhere: a file, torchvision's by name, or timm's by name.

`weights` is the path of a file (under the repository, or absolute; `{dataset}`, `{open}` and `{seed}` in it are filled
in), `torchvision:NAME` or `timm:NAME`. Only the latter two are ever downloaded, once, with their checksum.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from fer_openset.backbones import OTHER_LAYOUT, TIMM, copy_weights, layout_of, new_net
from fer_openset.errors import UserError
from fer_openset.labels import AMBIGUOUS, SETS, join_open
from fer_openset.resnet import BACKBONES
from fer_openset.settings import ROOT, Settings
from fer_openset.timm_body import timm_library
from fer_openset.weight_files import read_weights, sha256

TORCHVISION = "torchvision:"
VGGFACE2_IDENTITIES = 8631  # outputs of the networks that VGGFace2's authors published
SAME_IMAGES = {"rafdb_compound": "rafdb"}  # its basic set is the whole of the other
KNOWN_ONLY, WITH_POOL = "known", "known+pool"


class StartSettings(Settings):
    """What a network starts from.

    init: `scratch` is random; `pretrained` reads `weights`. weights_sha256: the file's SHA-256, if it is to be checked.
    layout: `native`, the one the file was trained in (VGGFace2's for its ResNet-50, torchvision's for all others);
    `official`, torchvision's for every file; `vggface2` for every file, as the authors' code has it. A backbone whose
    name says the layout (`resnet50@vggface2`) keeps it.
    """

    backbone: str = "resnet18"
    init: Literal["scratch", "pretrained"] = "scratch"
    weights: str = ""
    weights_sha256: str = Field("", pattern="^([0-9a-f]{64})?$")
    layout: Literal["native", "official", "vggface2"] = "native"


@dataclass(frozen=True)
class Place:
    """The run that asks: dataset, its open classes joined by `+`, seed; source: the reader of its images, if known;
    left_out: classes that a trial has taken out, which are open where its settings will be used."""

    dataset: str
    open: str
    seed: int
    source: str = ""
    left_out: tuple = ()


def place_of(dataset, known_classes, seed):
    """The place of a run on `dataset` in which `known_classes` are known."""
    opened = join_open(c for c in dataset.classes if c not in known_classes)
    return Place(dataset.name, opened, seed, dataset.source, dataset.left_out)


@dataclass(frozen=True)
class Start:
    """Weights that were read: the backbone they are for (its layout included), `body.` tensors, and where from."""

    backbone: str
    body: dict
    record: dict

    def net(self, n_outputs, seed, zero_head=True):
        """A network with this body; its head is that of `new_net`."""
        net = new_net(self.backbone, n_outputs, seed, zero_head)
        head = {name: value for name, value in net.state_dict().items() if not name.startswith("body.")}
        copy_weights(net, {**self.body, **head}, f"the weights of {self.record['path']}", self.backbone)
        return net


def pretrained_net(settings, n_outputs, seed, place, zero_head=True):
    """A network whose body has the weights that `settings` (StartSettings) name. Returns: (net, its backbone).

    Raises: UserError for weights that are missing, refused, do not fit, or saw images that are open here.
    """
    start = read_start(settings, place)
    say_if_transductive(settings.weights, start.record)
    return start.net(n_outputs, seed, zero_head), start.backbone


def say_if_transductive(name, record):
    """Print it if the networks called `name` come from weights that saw the pool. record: see `start_record`."""
    if record.get("trained_on") == WITH_POOL:
        print(f"{name} saw the pool's images, unlabelled: what follows is transductive", flush=True)


def start_record(settings, place):
    """What a run's record and checkpoint say of pretrained weights: {"weights": path, SHA-256, ...}; {} without any."""
    return {"weights": read_start(settings, place).record} if getattr(settings, "init", "") == "pretrained" else {}


def trained_backbone(run, f_close):
    """The backbone, layout included, of networks whose checkpoint says `run`; f_close: the backbone of their f_close.

    Raises: KeyError for what no method's checkpoint says.
    """
    if "weights" in run:
        return run["weights"]["backbone"]
    return layout_of(run["settings"]["backbone"], f_close, run["settings"]["init"])


def read_start(settings, place):
    """Find, check and read the weights that `settings` name. Raises: UserError (see `pretrained_net`)."""
    path = find_weights(settings.weights, place)
    digest = sha256(path)
    if settings.weights_sha256 not in ("", digest):
        raise UserError(f"{path}: its SHA-256 is {digest}, but weights_sha256 asks for {settings.weights_sha256}.")
    tensors, header = read_weights(path)
    _refuse_leak(path, header, place)
    base = settings.backbone.partition("@")[0]
    if str(header.get("backbone", base)).partition("@")[0] != base:
        raise UserError(f"{path}: weights of {header['backbone']}, but backbone is {settings.backbone}; set the same.")
    backbone = base + _layout(settings, header, tensors)
    body = _body(tensors, backbone)
    record = {
        "path": settings.weights,
        "sha256": digest,
        "backbone": backbone,
        "trained_on": str(header.get("images", "")),
    }
    return Start(backbone, body, record)


def _refuse_leak(path, header, place):
    """Weights from these images must not have seen, as known ones, images that are open here."""
    if not _images(header.get("dataset"), header.get("source")) & _images(place.dataset, place.source):
        return
    if place.left_out and header.get("images") == WITH_POOL:
        raise UserError(f"{path}: these weights saw the images of a pool, and {place.dataset} is there to choose "
                        f"settings without them; pretrain on known images alone (images: {KNOWN_ONLY}).")  # fmt: skip
    hidden = "+".join([place.open, *place.left_out])
    seen = {member for name in hidden.split("+") for member in SETS.get(name, (name,))}
    known, opened = header.get("classes"), set(str(header.get("open", "")).split("+"))
    if isinstance(known, list):  # absent from files of earlier versions
        seen &= {*map(str, known), AMBIGUOUS} - (opened & {AMBIGUOUS})  # unless open, they are in the known classes
    else:
        seen -= opened
    seen = sorted(seen)
    if seen:
        raise UserError(f"{path}: these weights were trained with {', '.join(seen)} among the known classes of "
                        f"{place.dataset}, open here; pretrain again with open classes {hidden}.")  # fmt: skip
    if place.left_out and header.get("dataset") != place.dataset:  # a trial's pool is a part of the training images
        raise UserError(f"{path}: these weights were trained on {header.get('dataset')}, whose training images "
                        f"{place.dataset} tests on; pretrain on {place.dataset} itself.")  # fmt: skip


def _images(*names):
    """What two datasets of the same images share a name in, whatever their settings files are called."""
    return {SAME_IMAGES.get(name, name) for name in names if name and isinstance(name, str)}


def _layout(settings, header, tensors):
    """The suffix of the backbone's name. Only ResNets come in two layouts."""
    if settings.backbone.partition("@")[0] not in BACKBONES:
        return ""
    if settings.backbone.endswith(OTHER_LAYOUT):
        return OTHER_LAYOUT
    if settings.layout == "native" and "backbone" in header:
        return OTHER_LAYOUT if str(header["backbone"]).endswith(OTHER_LAYOUT) else ""
    fc = tensors.get("fc.weight")
    bottlenecks = "layer1.0.conv3.weight" in tensors
    faces = bottlenecks and fc is not None and fc.ndim == 2 and len(fc) == VGGFACE2_IDENTITIES
    other = settings.layout == "vggface2" or (settings.layout == "native" and faces)
    return OTHER_LAYOUT if other else ""


def _body(tensors, backbone):
    """The body's tensors under our names, without the head of their classes."""
    if any(name.startswith("body.") for name in tensors):  # written by this workbook
        return {name: tensor for name, tensor in tensors.items() if name.startswith("body.")}
    if backbone.startswith(TIMM):
        config = timm_library().get_pretrained_cfg(backbone.removeprefix(TIMM))
        heads = (config.classifier,) if isinstance(config.classifier, str) else tuple(config.classifier or ())
        prefix = "body.net."
    else:
        heads, prefix = ("fc",), "body."
    dropped = tuple(f"{head}." for head in heads)
    return {prefix + name: tensor for name, tensor in tensors.items() if not name.startswith(dropped)}


def find_weights(weights, place):
    """The file that `weights` names, downloaded first if it is a library's. Raises: UserError when there is none."""
    if not weights:
        raise UserError("init: pretrained needs `weights`: a file, torchvision:NAME or timm:NAME.")
    if weights.startswith(TORCHVISION):
        return _from_torchvision(weights.removeprefix(TORCHVISION))
    if weights.startswith(TIMM):
        return _from_timm(weights.removeprefix(TIMM))
    for key in ("dataset", "open", "seed"):
        weights = weights.replace(f"{{{key}}}", str(getattr(place, key)))
    return ROOT / Path(weights).expanduser()


def _from_torchvision(name):
    from torchvision import models  # here: it imports torch's compiler, which nothing else needs

    try:
        found = models.get_weight(name) if "." in name else models.get_model_weights(name).DEFAULT
    except (KeyError, ValueError, AttributeError):
        known = "a network such as resnet18, or weights such as ResNet18_Weights.IMAGENET1K_V1"
        raise UserError(f"torchvision has no weights {name!r}; expected {known}.") from None
    path = Path(torch.hub.get_dir()) / "checkpoints" / found.url.rpartition("/")[2]
    promised = re.search(r"-([0-9a-f]{8,})\.", path.name)[1]  # torchvision's file names carry their checksum
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(found.url, lambda: torch.hub.download_url_to_file(found.url, str(path), promised))
    return _checked(path, promised)


def _from_timm(name):
    timm_library()
    from huggingface_hub import hf_hub_download
    from timm.models import get_pretrained_cfg

    try:
        config = get_pretrained_cfg(name)
    except RuntimeError:  # weights that this network does not have
        config = None
    if config is None or not config.hf_hub_id:
        raise UserError(f"timm has no weights {name!r} to download; its names look like resnet18.a1_in1k.")
    address = f"{config.hf_hub_id}/model.safetensors"
    path = Path(_download(address, lambda: hf_hub_download(config.hf_hub_id, "model.safetensors"))).resolve()
    return _checked(path, path.name)  # the cache stores a file under its SHA-256


def _download(address, get):
    try:
        return get()
    except Exception as error:  # whatever a network and two libraries raise; the sentence says what to do instead
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{address}: cannot be downloaded ({reason}); get it by hand, set weights to it.") from None


def _checked(path, promised):
    digest = sha256(path)
    if len(promised) < 8 or not digest.startswith(promised):
        raise UserError(f"{path}: its SHA-256 is {digest}, not {promised}...; delete it, it is downloaded again.")
    return path

"""A finished run as one object for new images: which expression, how open, and whether that is open.

It holds f_close and, where the run trained them, the networks of pool_novelty as their last epoch left them (the run's
own scores, and the threshold that follows from its open share, are averages over epochs and rounds). Everything in it
was fitted on known training images or the unlabelled pool; no open label is read.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from fer_openset.attention import class_attention
from fer_openset.backbones import copy_weights, new_net
from fer_openset.checkpoint import load_tensors, save_tensors
from fer_openset.closed_set import predict
from fer_openset.datasets import Dataset
from fer_openset.device import Device, pick_device
from fer_openset.errors import UserError
from fer_openset.methods import method_settings, run_method
from fer_openset.photos import as_face

FORMAT = "fer_openset detector 1"
NOVELTY = "pool_novelty"
LOGIT_SCORES = ("msp", "maxlogit", "energy")  # need nothing but f_close's outputs for the image itself
SCORES = (NOVELTY, *LOGIT_SCORES)
BATCH = 128
CLOSED = "f_close"
EXPECTED = "expected a list of pictures ([image] for a single one), or uint8 (N, 1 or 3, H, W)"


@dataclass(frozen=True)
class Use:
    """How the networks are used: everything about a detector that is no weight. `threshold`: an open score of at least
    this counts as open; `rule` says where it comes from. face_size, channels: the faces f_close was trained on;
    image_size, mirror, backbone: how it and (novelty_*) the networks of pool_novelty see them."""

    classes: tuple
    method: str
    method_values: dict
    threshold: float
    rule: str
    face_size: int
    channels: int
    image_size: int
    mirror: bool
    backbone: str
    run: dict
    novelty_image_size: int = 0
    novelty_mirror: bool = False
    novelty_backbone: str = ""


@dataclass(frozen=True)
class OpenSetDetector:
    """A trained open-set detector for images that come one by one. Make it with `load`.

    use: see `Use`. f_close: the closed-set network. novelty: networks of pool_novelty by name, {} for other methods.
    """

    use: Use
    f_close: torch.nn.Module
    novelty: dict
    device: Device

    @classmethod
    def load(cls, path, method=None, data_root="", rule=None, device=None):
        """Load a detector: from the file that `save` wrote, or from the folder of a finished run.

        path: that file, a run's folder (results/runs/DATASET/PRESET/OPEN/seedN), or the part of it after `runs/`.
        The rest is for runs only. method: one of `SCORES`; None takes pool_novelty where the run kept its networks,
        else energy (`use.method` says which). rule: where the threshold comes from, `known_95` (keeps 95 % of the known
        validation images, so it opens the dataset; the default of the scores of f_close) or `open_share`
        (pool_novelty's estimate of the pool's open fraction, its default). data_root: folder of the dataset, if it has
        moved.
        Raises: UserError for a missing, unfinished or damaged run or file, and for a run without validation images.
        """
        device = device or pick_device()
        if Path(path).is_file():
            if method or data_root or rule:
                raise UserError(f"{path}: a saved detector keeps its method and threshold; leave these options out.")
            return _read(cls, path, device)
        from fer_openset.detector_run import from_run  # it makes detectors, so it imports this module

        return from_run(path, method, data_root, rule, device)

    def save(self, path):
        """Write the whole detector as one safetensors file. Returns: the path."""
        tensors = {f"{name}/{key}": value for name, net in {CLOSED: self.f_close, **self.novelty}.items()
                   for key, value in net.state_dict().items()}  # fmt: skip
        save_tensors(path, tensors, format=FORMAT, novelty=list(self.novelty), use=vars(self.use))
        return Path(path)

    def faces(self, images):
        """Images of any size as the faces the networks know: their middle square, resized.

        Shapes: uint8 (N, C, H, W) with C of 1 or 3, or a list of pictures, each a PIL image or a uint8 array (H, W) or
        (H, W, 3) -> (N, channels, face_size, face_size) uint8. Raises: UserError for anything else, also for a picture
        that is in no list.
        """
        size, channels = self.use.face_size, self.use.channels
        images = images if isinstance(images, np.ndarray) else _listed(images)
        if isinstance(images, np.ndarray) and images.ndim not in (1, 4):
            raise UserError(f"images is one array of shape {images.shape}; {EXPECTED}.")
        if isinstance(images, np.ndarray) and images.ndim == 4 and images.shape[1] in (1, 3):
            if images.dtype == np.uint8 and images.shape[1:] == (channels, size, size):
                return images
            images = images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)
        made = [_face(image, i, size, channels) for i, image in enumerate(images)]
        return np.stack(made) if made else np.empty((0, channels, size, size), np.uint8)

    def predict(self, images, ids=None):
        """Closed-set expression, open score and verdict of each image.

        Shapes: images as for `faces`; returns a DataFrame of N rows, columns expression (str, the nearest known class,
        also for open images), open_score (float64, larger = more open), is_open (bool: score >= use.threshold); index
        `ids`, or 0..N-1. Images of the pool that the run was trained on have fairer scores in the run's scores.csv.
        """
        faces = self.faces(images)
        index = pd.RangeIndex(len(faces)) if ids is None else _index(ids, len(faces))
        logits = self._logits(self.f_close, faces, self.use.image_size, self.use.mirror)
        scores = np.asarray(self._open_scores(faces, pd.DataFrame(logits, columns=list(self.use.classes))))
        names = np.array(self.use.classes, dtype=object)[logits.argmax(1)] if len(faces) else []
        table = pd.DataFrame({"expression": names, "open_score": scores}, index=index)
        return table.assign(is_open=table["open_score"] >= self.use.threshold)

    def attention(self, images):
        """Class activation map of f_close for each image's expression: see `attention.class_attention`.

        Shapes: images as for `faces` -> (N, face_size, face_size) float32 in 0..1.
        """
        return class_attention(self.f_close, self.faces(images), self.use.image_size, self.device)

    def _logits(self, net, faces, image_size, mirror):
        if not len(faces):
            return np.empty((0, net.head.out_features), np.float32)
        data = Dataset("images", self.use.classes, pd.DataFrame(index=range(len(faces))), faces)
        return predict(net, data, np.arange(len(faces)), image_size, BATCH, self.device, mirror)

    def _open_scores(self, faces, logits):
        if self.use.method != NOVELTY:
            settings = method_settings(self.use.method, self.use.run["preset"], self.use.method_values)
            return run_method(self.use.method, Outputs(logits), settings)
        odds = []
        for net in self.novelty.values():
            z = self._logits(net, faces, self.use.novelty_image_size, self.use.novelty_mirror).astype(np.float64)
            odds.append(z[:, -1] - np.logaddexp.reduce(z[:, :-1], axis=1))
        return np.mean(odds, axis=0)


@dataclass(frozen=True)
class Outputs:
    """As much of a task as the scores on f_close's logits read: pool_logits (N, K)."""

    pool_logits: pd.DataFrame

    @property
    def pool_ids(self):
        return self.pool_logits.index


def _listed(images):
    """Images given as anything but an array, as a list. Raises: UserError for one picture, and for nothing."""
    if isinstance(images, Image.Image) or not hasattr(images, "__iter__") or getattr(images, "ndim", 1) in (2, 3):
        raise UserError(f"images is of type {type(images).__name__}; {EXPECTED}.")
    return list(images)


def _index(ids, n):
    try:
        index = pd.Index(ids)
    except TypeError:
        raise UserError(f"ids is of type {type(ids).__name__}; expected a list of {n}, one for each image.") from None
    if len(index) != n:
        raise UserError(f"ids has {len(index)} entries for {n} images; give one for each image, in order.")
    return index


def _face(image, number, size, channels):
    try:
        return as_face(_picture(image, number), size, channels)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's, of a lazily opened file or an odd mode
        raise UserError(f"image {number} is not readable as a picture ({error}); open or convert it anew.") from None


def _picture(image, number):
    if isinstance(image, Image.Image):
        return image
    pixels = np.asarray(image)
    if pixels.dtype == np.uint8 and 0 not in pixels.shape and (pixels.ndim == 2 or pixels.shape[2:] == (3,)):
        return Image.fromarray(np.ascontiguousarray(pixels))
    raise UserError(
        f"image {number} is {pixels.dtype} of shape {pixels.shape}; expected a picture, or uint8 (H, W) or (H, W, 3)."
    )


def closed_model(use, tensors, device):
    """The network f_close of a detector, on the device."""
    return _network(use.backbone, len(use.classes), tensors, "the weights of f_close", device)


def novelty_net(use, tensors, device):
    """A network of pool_novelty, on the device."""
    return _network(use.novelty_backbone, len(use.classes) + 1, tensors, "the weights of pool_novelty", device)


def _network(backbone, outputs, tensors, source, device):
    net = new_net(backbone, outputs, 0)
    copy_weights(net, tensors, source, backbone)
    return device.place(net).eval()


def under(tensors, prefix):
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _read(cls, path, device):
    tensors, header = load_tensors(path)
    if header.get("format") != FORMAT:
        raise UserError(f"{path}: no detector saved by this workbook; expected a file that OpenSetDetector.save wrote.")
    try:
        use = Use(**{**header["use"], "classes": tuple(header["use"]["classes"])})
        nets = {name: novelty_net(use, under(tensors, f"{name}/"), device) for name in header["novelty"]}
        return cls(use, closed_model(use, under(tensors, f"{CLOSED}/"), device), nets, device)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: parts of the detector are missing ({error}); save it again from its run.") from None

"""DIAS: a classifier that is shown fakes of several difficulties and learns to be undecided about them.

Moon, Park, Seong, Cho and Heo, "Difficulty-Aware Simulator for Open Set Recognition", ECCV 2022. A generator draws
images that pass for known ones (moderate fakes); Copycat, a second classifier, imitates the early features of the
first, and its own features are handed out as fakes (hard from its early stages, easy from its last).
"""

import zlib
from typing import Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field
from pytorch_ood.detector import MaxSoftmax

from fer_openset.augment import AugmentSettings, SizeSettings, normalise, resize, train_view
from fer_openset.backbones import TIMM, copy_weights, layout_of, new_net
from fer_openset.closed_set import batch_of, data_digest, predict
from fer_openset.errors import UserError
from fer_openset.fit import Learner, OptimSettings, fit, make_optimizer, stream_seed, take_step
from fer_openset.methods.gan import gan_optimizer, new_gan
from fer_openset.methods.predictions import write_predictions
from fer_openset.methods.two_norms import BORROWED, FAKE, norms, split_norms
from fer_openset.winograd import same_weights


class DiasSettings(OptimSettings, AugmentSettings, SizeSettings):
    """Settings of the method; origins stand in params/methods/dias.yaml.

    init, copycat_init: weights that the classifier and Copycat start from. images_per_epoch: known training images
    drawn anew for each epoch, 0 for all. gan_weight: b, the weight of the generated fakes, for the classifier and (with
    the other sign) for the generator. copycat_weight: weight of Copycat's fakes. copycat_smoothing: a of LS(a) on
    Copycat's early features. imitation_weight: of Copycat's distance to the classifier. copycat_norms: which norms
    Copycat's features meet, the fake set's, or scale and shift of the real set's (whose statistics stay as they are).
    generator_size: pixels a side of the generated images. mirror: scores see an image and its mirror image.
    """

    backbone: str = "resnet18"
    eval_batch_size: int = Field(512, ge=1)
    batch_size: int = Field(ge=2)
    init: Literal["scratch", "f_close"]
    copycat_init: Literal["scratch", "f_close"]
    images_per_epoch: int = Field(0, ge=0)
    gan_weight: float = Field(ge=0)
    copycat_weight: float = Field(ge=0)
    copycat_smoothing: float = Field(ge=0, le=1)
    imitation_weight: float = Field(ge=0)
    copycat_norms: Literal["real", "fake"]
    generator_size: Literal[32, 64]
    gan_width: int = Field(ge=1)
    noise_size: int = Field(ge=1)
    gan_lr: float = Field(gt=0)
    gan_beta1: float = Field(ge=0, lt=1)
    mirror: bool = False


def dias(task, settings):
    """Negative maximum softmax probability of the classifier trained with DIAS, on the clean view of the pool.

    Shapes: open_score (M,). Range: [-1, -1/K]. Direction: larger = more open. Trains on known training images alone;
    neither the pool nor its pseudo labels are read before the scores. Also writes `predictions.csv`, the classifier's
    known class of each pool image. Paper: Moon et al., ECCV 2022; values of the authors' code. Differs: see
    `Simulator`, and the port to faces: the generator draws 32 or 64 pixels a side, enlarged for the classifier, and the
    classifier starts from f_close in every preset, both of its sets of norms alike (authors: from scratch); where the
    settings say sgd, Nesterov's momentum and no decay of biases and norms (this workbook's SGD); fakes and real images
    are normalised with ImageNet's statistics, as all images here (authors' code: both stay within 0..1).
    Raises: UserError when an epoch has fewer than two images, or f_close is another network.
    """
    if settings.backbone.startswith(TIMM):
        raise UserError(f"dias: it cuts a network after its stages, which {settings.backbone} does not name; take "
                        "resnet18 or resnet50.")  # fmt: skip
    rows = task.dataset.rows(task.train.index)
    drawn = min(settings.images_per_epoch or len(rows), len(rows))
    if drawn < 2:
        raise UserError(f"dias: an epoch has {drawn} known training images, expected two or more; "
                        "raise images_per_epoch or use more images.")  # fmt: skip
    targets = np.full(len(task.dataset.table), -1)
    targets[rows] = task.train["target"]
    simulator = Simulator(task, settings, targets)
    valid, valid_targets = task.dataset.rows(task.valid.index), task.valid.get("target")

    def outputs(at, size):
        return predict(simulator.net2.net, task.dataset, at, size, settings.eval_batch_size, task.device,
                       settings.mirror)  # fmt: skip

    def rows_of(epoch):
        rng = np.random.default_rng(stream_seed(task.seed, "dias", epoch, "images"))
        chosen = rng.choice(rows, drawn, replace=False)
        return {"net2": chosen, "net1": chosen, "generator": None, "discriminator": None}

    def after_epoch(epoch):
        if not len(valid):
            return {}
        logits = outputs(valid, settings.size_at(epoch))
        return {"valid_accuracy": float((logits.argmax(1) == valid_targets.to_numpy()).mean())}

    identity = {**task.identity(), "train": data_digest(task.dataset, rows), "targets": zlib.crc32(targets)}
    fit(simulator.learners, None, rows_of, settings, task.device, task.seed, task.folder, "dias", identity,
        after_epoch)  # fmt: skip
    logits = torch.from_numpy(outputs(task.dataset.rows(task.pool_ids), settings.image_size)).double()
    write_predictions(task, logits)
    return pd.Series(MaxSoftmax.score(logits).numpy(), index=task.pool_ids)


def smoothed(logits, y, a):
    """LS(a): cross-entropy to (1-a) onehot + a/K; a = 1 asks for the uniform prediction whatever y is (a scalar)."""
    return F.cross_entropy(logits, y, label_smoothing=a)


class Simulator:
    """The four networks and their two passes: net2's epoch is the GAN pass, net1's (Copycat's) the Copycat pass.

    net2 is the classifier that is scored; it learns in both passes. Paper: Moon et al., ECCV 2022.
    Differs: one forward pass a step and network, where the authors' code repeats it after each update. So the generator
    and net2 learn from the same fakes, and Copycat and net2 see each other as of before the step, both in training mode
    (authors: the one that does not learn is in evaluation mode). Copycat's features do not enter the running statistics
    that net2 is scored with (authors: they do). The stages are a ResNet's.
    """

    def __init__(self, task, settings, targets):
        self.task, self.settings, self.targets = task, settings, torch.from_numpy(targets)
        self.net2 = self._classifier("net2", settings.init, split_norms, self.gan_step)
        self.net1 = self._classifier("net1", settings.copycat_init, lambda net: net, self.copycat_step)
        channels = task.dataset.images.shape[1]
        networks = new_gan(settings.generator_size, channels, settings.gan_width, settings.noise_size,
                           stream_seed(task.seed, "dias", "gan"))  # fmt: skip
        self.generator, self.discriminator = (
            Learner(name, net, gan_optimizer(net, settings.gan_lr, settings.gan_beta1))
            for name, net in zip(("generator", "discriminator"), map(task.device.place, networks), strict=True)
        )
        self.learners = [self.net2, self.net1, self.generator, self.discriminator]

    def _classifier(self, name, init, prepare, step):
        task, backbone = self.task, self.settings.backbone
        net = new_net(
            layout_of(backbone, task.f_close.backbone, init),
            len(task.known_classes),
            stream_seed(task.seed, "dias", name),
        )
        if init == "f_close":
            copy_weights(net, task.f_close.net.state_dict(), "dias: the weights of f_close", backbone)
        net = task.device.place(prepare(net))
        return Learner(name, net, make_optimizer(net, self.settings), step)

    def _batch(self, rows, generator, epoch):
        device, size = self.task.device.torch_device, self.settings.size_at(epoch)
        x = train_view(batch_of(self.task.dataset, rows), size, self.settings, device, generator)
        return x, self.targets[torch.from_numpy(rows)].to(device)

    def gan_step(self, rows, generator, epoch):
        """Discriminator: real or fake. Generator: pass for real, and for known in net2's eyes. net2: the known classes
        on real images, the uniform prediction on fakes, which meet the fake norms."""
        settings, net2 = self.settings, self.net2.net
        x, y = self._batch(rows, generator, epoch)
        with self.task.device.autocast():
            fakes = normalise(self.generate(len(y), generator))
        loss_d, told = self._teach_discriminator(resize(x, settings.generator_size), fakes.detach())
        seen = fakes.detach().requires_grad_()
        with same_weights(net2):
            with self.task.device.autocast():
                logits = net2(x)
                with norms(net2, FAKE):
                    of_fakes = net2(resize(seen, x.shape[-1]))
                passed = self.discriminator.net(fakes)
            loss_real, loss_fake = F.cross_entropy(logits, y), smoothed(of_fakes, y, 1.0)
            loss = loss_real + settings.gan_weight * loss_fake
            loss.backward()
        loss_g = F.binary_cross_entropy_with_logits(passed, torch.ones_like(passed))
        # net2's gradient on the fakes, turned round: what makes net2 less undecided.
        torch.autograd.backward([loss_g, fakes], [None, -seen.grad], inputs=list(self.generator.net.parameters()))
        take_step(self.generator)
        take_step(self.net2)
        right = (logits.argmax(1) == y).float().mean()
        return {"loss": loss, "train_accuracy": right, "loss_fake": loss_fake, "loss_d": loss_d, "loss_g": loss_g,
                "told_apart": told}  # fmt: skip

    def generate(self, n, generator):
        """n fakes from fresh noise: (n, C, size, size) float32, 0..255."""
        z = torch.randn(n, self.settings.noise_size, generator=generator, device=self.task.device.torch_device)
        return self.generator.net(z)

    def _teach_discriminator(self, real, fake):
        """One step. Returns: its loss, and the share of images that it told before it."""
        with self.task.device.autocast():
            of_real, of_fake = self.discriminator.net(real), self.discriminator.net(fake)
        loss = (F.binary_cross_entropy_with_logits(of_real, torch.ones_like(of_real))
                + F.binary_cross_entropy_with_logits(of_fake, torch.zeros_like(of_fake)))  # fmt: skip
        loss.backward()
        take_step(self.discriminator)
        return loss, ((of_real > 0).float().mean() + (of_fake <= 0).float().mean()) / 2

    def copycat_step(self, rows, generator, epoch):
        """Copycat: the known classes, and net2's features after stages 1 and 2. net2: the known classes, and LS(a) on
        Copycat's features, which go through what is left of net2 after the stage they come from."""
        settings, net1, net2 = self.settings, self.net1.net, self.net2.net
        _share_rate(self.net1.optimizer, self.net2.optimizer)
        x, y = self._batch(rows, generator, epoch)
        with same_weights(net2):
            with self.task.device.autocast():
                copied, own = staged(net1, x), staged(net2, x)
                copycat_logits, logits = net1.classify(copied[2]), net2.classify(own[2])
                fakes = self.copycat_logits(copied)
            pairs = zip(copied[:2], own[:2], strict=True)
            distance = sum(F.l1_loss(a.float(), b.detach().float()) for a, b in pairs) / 2
            loss_copycat = F.cross_entropy(copycat_logits, y) + settings.imitation_weight * distance
            a = settings.copycat_smoothing
            loss_fake = (smoothed(fakes[0], y, a) + smoothed(fakes[1], y, a) + smoothed(fakes[2], y, 1.0)) / 3
            loss = F.cross_entropy(logits, y) + settings.copycat_weight * loss_fake
            # No weight is in both losses: what the other network gives is detached.
            (loss + loss_copycat).backward()
        take_step(self.net1)
        take_step(self.net2)
        right = (logits.argmax(1) == y).float().mean()
        return {"loss": loss, "train_accuracy": right, "loss_fake": loss_fake, "loss_copycat": loss_copycat,
                "distance": distance}  # fmt: skip

    def copycat_logits(self, copied):
        """net2's logits (n, K) of Copycat's features of stages 1 and 2 and of its last one, which gets no gradient."""
        net2, (first, second, last) = self.net2.net, (features.detach() for features in copied)
        with norms(net2, BORROWED if self.settings.copycat_norms == "real" else FAKE):
            early = [net2.classify(net2.since(first, 1)), net2.classify(net2.since(second, 2))]
        return [*early, net2.classify(last)]


def staged(net, x):
    """Outputs of stages 1, 2 and 4."""
    first = net.until(x, 1)
    second = net.since(first, 1, 2)
    return first, second, net.since(second, 2)


def _share_rate(source, target):
    for one, other in zip(source.param_groups, target.param_groups, strict=True):
        other["lr"] = one["lr"]

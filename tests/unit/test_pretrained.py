"""Networks from pretrained weights: the right layout, every key accounted for, nothing open ever seen."""

import hashlib
import pickle
import sys

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tiny import CPU, tiny_dataset
from torch import nn
from torchvision import models

from fer_openset import pretrained
from fer_openset.backbones import FaceNet, copy_weights, new_net
from fer_openset.checkpoint import load_tensors, save_tensors
from fer_openset.closed_set import ClosedSetSettings, load_model, train_closed_set
from fer_openset.errors import UserError
from fer_openset.labels import BASIC
from fer_openset.methods import method_settings
from fer_openset.pretrained import (
    Place,
    StartSettings,
    find_weights,
    pretrained_net,
    read_start,
    start_record,
    trained_backbone,
)
from fer_openset.protocol import make_protocol
from fer_openset.settings import ROOT

PLACE = Place("ferplus", "surprise", 0)


def random_norms(net):
    """Norms that do something: a fresh network's cannot tell which of two strided convolutions comes first."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight.data, module.bias.data, module.running_mean):
                values.copy_(torch.rand(values.shape, generator=generator))
    return net


def vggface2(net, pooling=True, stride=True):
    """A ResNet of torchvision changed by hand into the layout of VGGFace2's authors."""
    if pooling:
        net.maxpool = nn.MaxPool2d(3, 2, padding=0, ceil_mode=True)
    for layer in (net.layer2, net.layer3, net.layer4) if stride else ():
        if hasattr(layer[0], "conv3"):
            layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    return net


@pytest.fixture(scope="module")
def vggface2_net():
    torch.manual_seed(0)
    return random_norms(models.resnet50(weights=None, num_classes=8631)).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory, vggface2_net):
    """The two files that the authors' code starts from, with random weights."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(1)
    msceleb = random_norms(models.resnet18(weights=None)).eval()
    torch.save({"state_dict": msceleb.state_dict(), "epoch": 9}, folder / "resnet18_msceleb.pth")
    arrays = {k: v.numpy() for k, v in vggface2_net.state_dict().items() if not k.endswith("num_batches_tracked")}
    (folder / "resnet50_ft_weight.pkl").write_bytes(pickle.dumps(arrays, protocol=4))
    return folder, msceleb


def settings_of(path, **changes):
    return StartSettings(**{"init": "pretrained", "weights": str(path), **changes})


def last_map(net, x):
    """The feature map of a torchvision ResNet."""
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    return net.layer4(net.layer3(net.layer2(net.layer1(x))))


def features(net, x):
    with torch.no_grad():
        return net.eval().double().body.until(x.double(), 4)


def pictures(size=64):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_resnet18_msceleb_gives_the_features_of_a_plain_load(files):
    folder, _ = files
    plain = models.resnet18()
    plain.load_state_dict(torch.load(folder / "resnet18_msceleb.pth", weights_only=True)["state_dict"])
    net, backbone = pretrained_net(settings_of(folder / "resnet18_msceleb.pth"), 6, 0, PLACE)
    assert backbone == "resnet18" and net.head.out_features == 6
    with torch.no_grad():
        expected = last_map(plain.eval().double(), pictures().double())
    torch.testing.assert_close(features(net, pictures()), expected, atol=1e-6, rtol=0)


def test_both_layouts_of_the_vggface2_resnet50(files, vggface2_net):
    """The same weights are two networks; `native` is the one they were trained in, `official` is torchvision's."""
    path = files[0] / "resnet50_ft_weight.pkl"
    with open(path, "rb") as file:
        plain = {name: torch.from_numpy(array) for name, array in pickle.load(file, encoding="latin1").items()}
    x, found, expected = pictures(), {}, {}
    for layout, change in (("native", (True, True)), ("official", (False, False))):
        reference = vggface2(models.resnet50(num_classes=8631), *change)
        reference.load_state_dict(plain, strict=False)
        with torch.no_grad():
            expected[layout] = last_map(reference.eval().double(), x.double())
        net, backbone = pretrained_net(settings_of(path, backbone="resnet50", layout=layout), 6, 0, PLACE)
        assert backbone == {"native": "resnet50@vggface2", "official": "resnet50"}[layout]
        found[layout] = features(net, x)
        torch.testing.assert_close(found[layout], expected[layout], atol=1e-6, rtol=1e-6)
    assert found["native"].shape == found["official"].shape == (2, 2048, 2, 2)
    assert float((found["native"] - found["official"]).norm() / found["official"].norm()) > 0.1
    for half in ((True, False), (False, True)):  # each of the two differences counts
        reference = vggface2(models.resnet50(num_classes=8631), *half)
        reference.load_state_dict(plain, strict=False)
        with torch.no_grad():
            other = last_map(reference.eval().double(), x.double())
        assert all(float((other - one).norm() / one.norm()) > 1e-3 for one in found.values())


def test_the_authors_put_resnet18_into_the_other_layout_too(files):
    folder, msceleb = files
    path = folder / "resnet18_msceleb.pth"
    plain = vggface2(models.resnet18())
    plain.load_state_dict(msceleb.state_dict())
    with torch.no_grad():
        expected = last_map(plain.eval().double(), pictures().double())
    net, backbone = pretrained_net(settings_of(path, layout="vggface2"), 6, 0, PLACE)
    assert backbone == "resnet18@vggface2"
    torch.testing.assert_close(features(net, pictures()), expected, atol=1e-6, rtol=0)
    assert read_start(settings_of(path, layout="official"), PLACE).backbone == "resnet18"


def test_the_mean_over_the_map_is_the_average_pooling_of_7(files):
    maps = torch.randn(2, 2048, 7, 7)  # what 224 pixels give
    assert torch.equal(FaceNet.pooled(None, maps), maps.mean((2, 3)))
    torch.testing.assert_close(maps.mean((2, 3)), F.avg_pool2d(maps, 7).flatten(1))
    assert nn.MaxPool2d(3, 2, 0, ceil_mode=True)(torch.zeros(1, 1, 112, 112)).shape[-1] == 56


def test_a_checkpoint_says_which_layout_its_networks_have():
    own = {"settings": {"backbone": "resnet18", "init": "f_close"}}
    assert trained_backbone(own, "resnet18@vggface2") == "resnet18@vggface2"
    assert trained_backbone(own, "resnet50@vggface2") == "resnet18"
    assert (
        trained_backbone({"settings": {"backbone": "resnet18", "init": "scratch"}}, "resnet18@vggface2") == "resnet18"
    )
    read = {"settings": {"backbone": "resnet50", "init": "pretrained"}, "weights": {"backbone": "resnet50@vggface2"}}
    assert trained_backbone(read, "resnet18") == "resnet50@vggface2"


def test_the_record_says_what_was_read(files):
    path = files[0] / "resnet50_ft_weight.pkl"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    settings = settings_of(path, backbone="resnet50", weights_sha256=digest)
    record = {"path": str(path), "sha256": digest, "backbone": "resnet50@vggface2", "trained_on": ""}
    assert start_record(settings, PLACE) == {"weights": record}
    assert start_record(StartSettings(), PLACE) == {}
    average = method_settings("loss_average", "smoke", {"init": "pretrained", "weights": str(path),
                                                        "backbone": "resnet50"})  # fmt: skip
    assert start_record(average, PLACE) == {"weights": record}
    with pytest.raises(UserError, match=f"its SHA-256 is {digest}, but weights_sha256 asks for 0{{64}}"):
        read_start(settings_of(path, weights_sha256="0" * 64), PLACE)
    with pytest.raises(UserError, match="weights_sha256 = 'abc'"):
        StartSettings.build({"weights_sha256": "abc"}, "x")


def test_weights_of_another_network_name_their_keys(files, tmp_path):
    folder, _ = files
    with pytest.raises(UserError, match="do not fit resnet50: it lacks body.layer1.0.bn3.bias, .* and [0-9]+ more"):
        pretrained_net(settings_of(folder / "resnet18_msceleb.pth", backbone="resnet50"), 6, 0, PLACE)
    state = models.resnet18().state_dict()
    for change, words in (
        ({"conv1.weight": torch.zeros(64, 1, 7, 7)}, "body.conv1.weight (64, 1, 7, 7) for (64, 3, 7, 7)"),
        ({"layer5.0.conv1.weight": torch.zeros(1)}, "it has besides body.layer5.0.conv1.weight."),
        ({"bn1.bias": torch.full((64,), torch.nan)}, "hold infinite numbers or NaN in body.bn1.bias"),
        ({"bn1.running_var": None}, "it lacks body.bn1.running_var."),
    ):
        tensors = {k: v for k, v in {**state, **change}.items() if v is not None}
        save_file(tensors, tmp_path / "w.safetensors")
        with pytest.raises(UserError) as error:
            pretrained_net(settings_of(tmp_path / "w.safetensors"), 6, 0, PLACE)
        assert words in str(error.value) and str(tmp_path / "w.safetensors") in str(error.value)


def test_weights_that_do_not_fit_change_nothing():
    net = new_net("resnet18", 3, 0)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = {k: torch.ones_like(v) for k, v in before.items()}
    for name, value in (
        ("head.bias", torch.zeros(4)),
        ("head.bias", torch.full((3,), torch.inf)),
        ("x", torch.ones(1)),
    ):
        with pytest.raises(UserError):
            copy_weights(net, {**state, name: value}, "these weights", "resnet18")
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def own_file(path, backbone="resnet18", **header):
    net = new_net(backbone, 4, seed=5)
    save_tensors(path, net.state_dict(), backbone=backbone, **header)
    return net.state_dict()


def test_a_file_of_this_workbook_gives_its_body_and_keeps_its_layout(tmp_path):
    for backbone in ("resnet18", "resnet18@vggface2"):
        written = own_file(tmp_path / "w.safetensors", backbone)
        net, found = pretrained_net(settings_of(tmp_path / "w.safetensors"), 6, 0, PLACE)
        assert found == backbone and net.head.weight.shape == (6, 512)
        assert all(torch.equal(v, written[k]) for k, v in net.state_dict().items() if k.startswith("body."))
    with pytest.raises(UserError, match="weights of resnet18@vggface2, but backbone is resnet50; set the same"):
        read_start(settings_of(tmp_path / "w.safetensors", backbone="resnet50"), PLACE)


def test_weights_that_saw_an_open_class_as_known_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    own_file(path, dataset="ferplus", open="surprise+fear", images="known")
    for name in ("surprise", "fear", "surprise+fear"):
        assert read_start(settings_of(path), Place("ferplus", name, 0)).record["trained_on"] == "known"
    with pytest.raises(UserError, match="trained with anger among the known classes of ferplus, open here"):
        read_start(settings_of(path), Place("ferplus", "anger+fear", 0))
    read_start(settings_of(path), Place("rafdb", "anger", 0))  # another dataset's images


def test_the_same_images_under_another_name_are_no_other_images(tmp_path):
    path = tmp_path / "w.safetensors"
    own_file(path, dataset="rafdb_compound", open="compound", images="known", classes=list(BASIC))
    with pytest.raises(UserError, match="trained with surprise among the known classes of rafdb"):
        read_start(settings_of(path), Place("rafdb", "surprise", 0))
    with pytest.raises(UserError, match="trained with surprise among the known classes of mine"):
        read_start(settings_of(path), Place("mine", "surprise", 0, "rafdb"))
    read_start(settings_of(path), Place("rafdb_compound", "compound", 0))
    own_file(path, dataset="rafdb", open="fear", images="known", classes=[c for c in BASIC if c != "fear"])
    read_start(settings_of(path), Place("rafdb_compound", "compound", 0))  # none of these was ever known
    with pytest.raises(UserError, match="trained with anger among"):
        read_start(settings_of(path), Place("rafdb_compound", "anger+fear", 0))


def test_faces_without_a_majority_are_among_the_known_ones_unless_they_are_open(tmp_path):
    path, here = tmp_path / "w.safetensors", Place("ferplus", "ambiguous", 0)
    known = [name for name in BASIC if name != "surprise"]
    own_file(path, dataset="ferplus", open="surprise", images="known", classes=known)
    with pytest.raises(UserError, match="trained with ambiguous among the known classes of ferplus"):
        read_start(settings_of(path), here)
    own_file(path, dataset="ferplus", open="ambiguous", images="known", classes=list(BASIC))
    read_start(settings_of(path), here)
    own_file(path, dataset="rafdb", open="surprise", images="known", classes=known)
    read_start(settings_of(path), here)  # other images


def test_a_trial_takes_weights_of_its_own_training_images_or_of_other_datasets_only(tmp_path):
    path, here = tmp_path / "w.safetensors", Place("ferplus_trials", "fear", 0, "ferplus", ("surprise",))
    both = {"open": "surprise+fear", "images": "known", "classes": ["anger", "neutral"], "source": "ferplus"}
    for name in ("ferplus", "other_trials"):
        own_file(path, dataset=name, **both)
        with pytest.raises(UserError, match=f"trained on {name}, whose training images ferplus_trials tests on"):
            read_start(settings_of(path), here)
    own_file(path, dataset="ferplus_trials", **both)
    read_start(settings_of(path), here)
    own_file(path, dataset="rafdb", open="fear", images="known", source="rafdb")
    read_start(settings_of(path), here)


def test_a_backbone_whose_name_says_the_layout_keeps_it(tmp_path):
    own_file(tmp_path / "w.safetensors", "resnet18")
    asked = settings_of(tmp_path / "w.safetensors", backbone="resnet18@vggface2")
    assert pretrained_net(asked, 6, 0, PLACE)[1] == "resnet18@vggface2"


def test_weights_that_saw_the_pool_say_so(tmp_path, capsys):
    own_file(tmp_path / "w.safetensors", dataset="ferplus", open="surprise", images="known+pool")
    pretrained_net(settings_of(tmp_path / "w.safetensors"), 6, 0, PLACE)
    assert "saw the pool's images, unlabelled: what follows is transductive" in capsys.readouterr().out


def test_the_path_may_name_the_run(tmp_path):
    pattern = str(tmp_path / "{dataset}-{open}-{seed}.safetensors")
    assert find_weights(pattern, Place("rafdb", "fear+anger", 3)) == tmp_path / "rafdb-fear+anger-3.safetensors"
    assert find_weights("results/w.pth", PLACE) == ROOT / "results" / "w.pth"
    with pytest.raises(UserError, match="needs `weights`"):
        find_weights("", PLACE)


def test_f_close_starts_from_pretrained_weights_and_says_so(tmp_path):
    written = own_file(tmp_path / "w.safetensors", "resnet18@vggface2")
    dataset = tiny_dataset({"train": 2, "valid": 1, "test": 1})
    protocol = make_protocol(dataset.table, dataset.classes, "surprise")
    settings = ClosedSetSettings(image_size=32, lr=1e-9, weight_decay=0.0, epochs=1, batch_size=6, init="pretrained",
                                 weights=str(tmp_path / "w.safetensors"))  # fmt: skip
    model, _ = train_closed_set(dataset, protocol, settings, CPU, 0, tmp_path / "run")
    assert model.backbone == "resnet18@vggface2"
    back = load_model(tmp_path / "run", CPU)
    assert back.net.body.maxpool.ceil_mode and back.backbone == model.backbone
    torch.testing.assert_close(back.net.body.conv1.weight.data, written["body.conv1.weight"], atol=1e-6, rtol=0)
    assert load_tensors(tmp_path / "run" / "model.safetensors")[1]["images"] == "known"
    own_file(tmp_path / "w.safetensors", dataset="tiny", open="surprise", images="known+pool")
    train_closed_set(dataset, protocol, settings, CPU, 0, tmp_path / "pool")
    assert load_tensors(tmp_path / "pool" / "model.safetensors")[1]["images"] == "known+pool"  # it goes on from them
    with pytest.raises(UserError, match="trained with fear among the known classes of tiny"):  # f_close as weights
        read_start(settings_of(tmp_path / "run" / "model.safetensors"), Place("tiny", "fear", 0))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder of torch's downloads, and a server that holds one file."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    asked = []

    def download(url, path, promised):
        asked.append((url, promised))
        torch.save(models.resnet18().state_dict(), path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return asked


def test_torchvisions_weights_come_once_and_with_their_checksum(hub, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="resnet18-f37072fd.pth: its SHA-256 is .*, not f37072fd"):
        find_weights("torchvision:resnet18", PLACE)
    assert hub == [("https://download.pytorch.org/models/resnet18-f37072fd.pth", "f37072fd")]
    path = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    monkeypatch.setattr(pretrained, "sha256", lambda path: "f37072fd" + "0" * 56)
    assert find_weights("torchvision:ResNet18_Weights.IMAGENET1K_V1", PLACE) == path and len(hub) == 1
    path.unlink()
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a: exec("raise OSError('no network\\nhere')"))
    with pytest.raises(UserError, match=r"cannot be downloaded \(no network here\); get it by hand"):
        find_weights("torchvision:resnet18", PLACE)
    with pytest.raises(UserError, match="torchvision has no weights 'resnet19'"):
        find_weights("torchvision:resnet19", PLACE)


def test_without_timm_a_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for ask in (lambda: new_net("timm:resnet18", 3, 0), lambda: find_weights("timm:resnet18.a1_in1k", PLACE)):
        with pytest.raises(UserError, match="timm is not installed; install it with `pip install timm`"):
            ask()


@pytest.mark.parametrize(
    ("name", "shape"),
    [("resnet18", (512, 2, 2)), ("vit_tiny_patch16_224", (192, 3, 3)), ("convnext_atto", (320, 1, 1))],
)
def test_timm_networks_get_the_cam_head(name, shape):
    pytest.importorskip("timm")
    net = new_net(f"timm:{name}", 5, seed=0, zero_head=False).eval()
    x = torch.randn(2, 1, 48, 48)
    with torch.no_grad():
        maps = net.feature_map(x)
        assert maps.shape[1:] == shape
        torch.testing.assert_close(net(x), maps.mean((2, 3)) @ net.head.weight.T + net.head.bias, atol=1e-4, rtol=1e-4)
    again = new_net(f"timm:{name}.some_weights", 5, seed=0, zero_head=False).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in net.state_dict().items())


def test_a_transformers_tokens_go_back_to_their_places(monkeypatch):
    timm = pytest.importorskip("timm")
    net = new_net("timm:vit_tiny_patch16_224", 3, seed=0).eval()
    x = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        tokens = net.body.net.forward_features(x)
        # A second pass is not equal to the last bit on every processor.
        monkeypatch.setattr(net.body.net, "forward_features", lambda x: tokens)
        maps = net.feature_map(x)
    assert maps.shape == (1, 192, 2, 4) and torch.equal(maps[0, :, 1, 2], tokens[0, 1 + 1 * 4 + 2])
    with pytest.raises(UserError, match="timm knows no network 'resnet19'"):
        new_net("timm:resnet19", 3, 0)
    assert timm.is_model("resnet18")


def test_timm_weights_are_read_from_its_cache_and_checked(tmp_path, monkeypatch):
    timm, hub = pytest.importorskip("timm"), pytest.importorskip("huggingface_hub")
    theirs = timm.create_model("convnext_atto").eval()
    save_file(theirs.state_dict(), tmp_path / "w")
    digest = hashlib.sha256((tmp_path / "w").read_bytes()).hexdigest()
    asked = []
    monkeypatch.setattr(hub, "hf_hub_download", lambda *a: asked.append(a) or tmp_path / digest)
    (tmp_path / "w").rename(tmp_path / digest)
    settings = settings_of("timm:convnext_atto.d2_in1k", backbone="timm:convnext_atto")
    net, backbone = pretrained_net(settings, 6, 0, PLACE)
    assert backbone == "timm:convnext_atto" and asked[0] == ("timm/convnext_atto.d2_in1k", "model.safetensors")
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(net.eval().feature_map(x), theirs.forward_features(x), atol=1e-4, rtol=1e-4)
    (tmp_path / digest).write_bytes(b"something else")
    with pytest.raises(UserError, match="its SHA-256 is .*; delete it, it is downloaded again"):
        find_weights("timm:convnext_atto.d2_in1k", PLACE)
    with pytest.raises(UserError, match="timm has no weights 'resnet18.x'"):
        find_weights("timm:resnet18.x", PLACE)

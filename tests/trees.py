"""Small folders in the layouts of the real datasets, filled with made-up faces: python -m tests.trees FOLDER."""

import csv
import pickle
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from fer_openset.datasets import synthetic
from fer_openset.labels import AFFECTNET, BASIC, COMPOUND, CONTEMPT, EXPRESSIONS, FERPLUS_COLUMNS, OBJECTS

SIDE = 48
PEOPLE = 15
_, FACES = synthetic.examples(EXPRESSIONS, per_class=PEOPLE, image_size=SIDE)
FACES = FACES.reshape(len(EXPRESSIONS), PEOPLE, SIDE, SIDE)


def face(label, number, side=SIDE):
    """A colour face, its own for each number below PEOPLE and for each label: (side, side, 3) uint8."""
    grey = np.repeat(FACES[EXPRESSIONS.index(label), number][..., None], 3, axis=2)
    grey[..., 2] //= 2  # colour, so that swapped channels would show
    return np.asarray(Image.fromarray(grey).resize((side, side)))


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, quality=95)


def each(classes, train, test, first=0):
    """(split, label, number of the face, count from 1) of a small dataset; a person is in one split only."""
    middle = first + train
    for split, numbers in (("train", range(first, middle)), ("test", range(middle, middle + test))):
        for count, (label, number) in enumerate(((c, n) for c in classes for n in numbers), 1):
            yield split, label, number, count


def write_rafdb(folder, classes=BASIC, train=4, test=2, side=100, first=0):
    """RAF-DB's basic or compound set; `first`: number of the first face."""
    lines = []
    for split, label, number, count in each(classes, train, test, first):
        stem = f"{split}_{count:0{5 if split == 'train' else 4}d}"
        lines.append(f"{stem}.jpg {classes.index(label) + 1}")
        save(folder / "Image" / "aligned" / f"{stem}_aligned.jpg", face(label, number, side))
    (folder / "EmoLabel").mkdir(parents=True)
    (folder / "EmoLabel" / "list_patition_label.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
    return folder


def write_rafdb_both(root, train=4, test=2):
    write_rafdb(root / "basic", train=train, test=test)
    write_rafdb(root / "compound", COMPOUND, 2, 1, first=train + test)
    return root


def write_affectnet(root, train=4, test=2):
    """AffectNet-8: an annotation beside each face, with the other kinds of annotations that nobody reads."""
    for split, label, number, count in each(AFFECTNET, train, test):
        folder = root / {"train": "train_set", "test": "val_set"}[split]
        save(folder / "images" / f"{count}.jpg", face(label, number, 224))
        (folder / "annotations").mkdir(exist_ok=True)
        np.save(folder / "annotations" / f"{count}_exp.npy", np.array(str(AFFECTNET.index(label))))
        np.save(folder / "annotations" / f"{count}_val.npy", np.array("0.25"))
    return root


BOX = ("face_x", "face_y", "face_width", "face_height")
AFFECTNET_HEADER = ["subDirectory_filePath", *BOX, "facial_landmarks", "expression", "valence", "arousal"]


def write_affectnet_lists(root, train=4, test=2):
    """AffectNet's older form: the face stands at (10, 20) in a larger photograph; some rows show no expression."""
    rows = {"train": [], "test": []}
    for split, label, number, count in each(AFFECTNET, train, test):
        photograph = np.full((120, 100, 3), 255, np.uint8)
        photograph[20 : 20 + SIDE, 10 : 10 + SIDE] = face(label, number)
        name = f"{count % 3}/{split}{count}.png"
        save(root / "Manually_Annotated_Images" / name, photograph)
        rows[split].append([name, 10, 20, SIDE, SIDE, "1;2;3", AFFECTNET.index(label), 0.1, 0.2])
    rows["train"].append(["7/no_face.jpg", "NULL", "NULL", "NULL", "NULL", "NULL", 10, -2, -2])
    lists = root / "Manually_Annotated_file_lists"
    lists.mkdir(parents=True)
    for name, part in (("training.csv", rows["train"]), ("validation.csv", rows["test"])):
        with open(lists / name, "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([AFFECTNET_HEADER, *part])
    return root


def cifar10_batches(each_class=2):
    """{batch: (labels (n,), pictures (n, 3072))} uint8: faces stand in for things, the batches differ."""
    batches = {}
    for number, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
        labels = np.arange(len(OBJECTS) * each_class) % len(OBJECTS)
        faces = [face(EXPRESSIONS[label], 2 * number + i // len(OBJECTS), 32) for i, label in enumerate(labels)]
        batches[name] = labels.astype(np.uint8), np.stack(faces).transpose(0, 3, 1, 2).reshape(len(labels), -1)
    return batches


def write_cifar10(root, **options):
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, (labels, pictures) in cifar10_batches(**options).items():
        (folder / f"{name}.bin").write_bytes(np.hstack([labels[:, None], pictures]).tobytes())
    return root


def write_cifar10_pickles(root, protocol=2, **options):
    """As torchvision unpacks it, the keys being bytes as they are there."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, (labels, pictures) in cifar10_batches(**options).items():
        (folder / name).write_bytes(pickled_batch(name, labels.tolist(), pictures, protocol))
    return root


def pickled_batch(name, labels, pictures, protocol=2):
    """A batch as Python 2 pickled it (protocol 2), or as Python 3 does (protocol 4)."""
    if protocol > 2:
        return pickle.dumps({b"batch_label": name.encode(), b"labels": labels, b"data": pictures}, protocol)
    # Python 2's strings have opcodes that Python 3 reads and never writes.
    text = lambda value: b"U" + bytes([len(value)]) + value  # noqa: E731
    shape = pickle.dumps(pictures.shape, 2)[2:-1]
    raw = pictures.tobytes()
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|")
    dtype += b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R(K\x01" + shape
    array += dtype + b"\x89T" + len(raw).to_bytes(4, "little") + raw + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([n]) for n in labels) + b"e"
    pairs = [text(b"batch_label"), text(name.encode()), text(b"labels"), numbers, text(b"data"), array]
    return b"\x80\x02}q\x00(" + b"".join(pairs) + b"u."


def write_ferplus(root, train=4, valid=1, test=2, contempt=2, ambiguous=2):
    """FERPlus's PNG files and votes; contempt and faces with divided votes come in every split."""
    votes, rows, count = {}, [], 0
    for label in BASIC:
        votes[label] = [9 if column == label else int(column == "unknown") for column in FERPLUS_COLUMNS]
    votes[CONTEMPT] = [9 if column == CONTEMPT else int(column == "NF") for column in FERPLUS_COLUMNS]
    divided = [{"anger": 5, "disgust": 4, "NF": 1}.get(column, 0) for column in FERPLUS_COLUMNS]
    votes["angrily_disgusted"] = divided
    for usage, folder, numbers in (
        ("Training", "FER2013Train", range(train)),
        ("PublicTest", "FER2013Valid", range(train, train + valid)),
        ("PrivateTest", "FER2013Test", range(train + valid, train + valid + test)),
    ):
        extra = {CONTEMPT: contempt, "angrily_disgusted": ambiguous}
        for label, cast in votes.items():
            for number in list(numbers)[: extra.get(label)]:
                name = f"fer{count:07d}.png"
                save(root / folder / name, face(label, number)[..., 0])
                rows.append([usage, name, *cast])
                count += 1
    with open(root / "fer2013new.csv", "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([["Usage", "Image name", *FERPLUS_COLUMNS], *rows])
    return root


WRITERS = {"rafdb": write_rafdb_both, "affectnet": write_affectnet, "cifar10": write_cifar10, "ferplus": write_ferplus}


if __name__ == "__main__":
    enough = {"train": 10}  # PROSER holds out every tenth image of a class where there is no validation split
    for name, write in WRITERS.items():
        print(write(Path(sys.argv[1]) / name, **({} if name == "cifar10" else enough)))

"""What of a shard is a sample, of which class, and what is passed over with its name."""

import tarfile

import numpy as np
import pytest

from archives import picture
from pipelines import DataError, open_dataset
from tars import archive

PICTURES = [picture(number) for number in range(8)]


@pytest.fixture
def opened(tmp_path):
    """``opened({name: content}, ...) -> Dataset`` of a shard for each."""

    def make(*shards, **options):
        for number, members in enumerate(shards):
            data = members if isinstance(members, bytes) else archive(members)
            (tmp_path / f"train-{number:06}.tar").write_bytes(data)
        return open_dataset(tmp_path, "train", progress=False, **options)

    return make


def labelled(dataset) -> dict[bytes, str]:
    """Each image's class."""
    labels = dataset.labels(np.arange(len(dataset)))
    return {dataset.read(index).tobytes(): dataset.classes[label] for index, label in enumerate(labels)}


def named(dataset) -> dict[str, bytes]:
    return {dataset.short_name(index).partition(":")[2]: dataset.read(index).tobytes() for index in range(len(dataset))}


def files(pattern: str, count: int = 4, extension: str = "jpg") -> dict[str, bytes]:
    return {pattern.format(number) + f".{extension}": PICTURES[number] for number in range(count)}


EXPECTED = {PICTURES[number]: str(number % 2) for number in range(4)}


def pairs(*patterns: tuple[str, bytes | None], together: bool = True) -> list[tuple[str, bytes]]:
    """Four samples, each a file of every pattern: a name and a content, None for the picture, in which numbers are put."""
    rows = [
        (name.format(n), PICTURES[n] if content is None else content % (n % 2) if b"%" in content else content)
        for n in range(4)
        for name, content in patterns
    ]
    return rows if together else sorted(rows, key=lambda row: row[0].partition(".")[2])


WAYS = {
    "beside": pairs(("{}.jpg", None), ("{}.cls", b"%d\n")),
    "padded": pairs(("{}.cls", b"%03d"), ("{}.jpg", None)),
    "apart": pairs(("{}.cls", b"%d"), ("{}.jpg", None), together=False),
    "upper": pairs(("{}.CLS", b"%d"), ("{}.JPEG", None)),
    "field": pairs(("{}.image.jpg", None), ("{}.label.cls", b"%d")),
    "json": pairs(("{}.json", b'{"label": %d, "w": 3}'), ("{}.jpg", None)),
    "json of floats": pairs(("{}.json", b'{"label": %d.0}'), ("{}.jpg", None)),
    "both": pairs(("{}.jpg", None), ("{}.cls", b"%d"), ("{}.json", b"{}")),
    "marked": pairs(("{}.cls", b"\xef\xbb\xbf%d\r\n"), ("{}.jpg", None)),
    "padded at times": [
        *pairs(("{}.cls", b"%d"), ("{}.jpg", None))[:4],
        *pairs(("{}.cls", b"%02d"), ("{}.jpg", None))[4:],
    ],
}


@pytest.mark.parametrize("members", WAYS.values(), ids=WAYS.keys())
def test_a_number_beside_the_image_is_its_class_in_any_usual_way(opened, members):
    dataset = opened(members)
    assert dataset.classes == ("0", "1")
    assert labelled(dataset) == EXPECTED
    assert dataset.remarks == []


def test_images_whose_names_hold_a_dot_have_the_classes_of_their_own_names(opened):
    members = [(f"img.{n}.jpg", PICTURES[n]) for n in range(4)]
    members += [(f"img.{n}.{'cls' if n % 2 else 'json'}", b"%d" % (n % 2)) for n in range(4)]
    assert labelled(opened(members)) == EXPECTED


def test_files_of_a_sample_belong_together_however_their_names_begin(opened):
    members = [(f"./x/{n}.jpg", PICTURES[n]) for n in range(4)] + [
        (f"x/y/../{n}.cls", b"%d" % (n % 2)) for n in range(4)
    ]
    dataset = opened(members)
    assert labelled(dataset) == EXPECTED
    assert not dataset.passed_over


def test_a_json_with_another_class_than_the_file_of_its_class_is_counted(opened):
    members = [(f"{n}.jpg", PICTURES[n]) for n in range(4)] + [(f"{n}.cls", b"%d" % (n % 2)) for n in range(4)]
    members += [(f"{n}.json", b'{"label": 1}') for n in range(4)]
    dataset = opened(members)
    assert labelled(dataset) == EXPECTED
    names = [f"train-000000.tar:{n}.json" for n in (0, 2)]
    assert dataset.passed_over == {".json with another class": (2, names)}


def test_a_json_gives_names_to_numbers(opened):
    members = []
    for n in range(4):
        members += [(f"{n}.jpg", PICTURES[n]), (f"{n}.cls", b"%d" % (n % 2))]
        members += [(f"{n}.json", b'{"label": %d, "class_name": "%s"}' % (n % 2, [b"zebra", b"ant"][n % 2]))]
    dataset = opened(members)
    assert dataset.classes == ("zebra", "ant")  # in the order of the numbers
    assert labelled(dataset) == {PICTURES[n]: ["zebra", "ant"][n % 2] for n in range(4)}


@pytest.mark.parametrize(
    ("lead", "says"),
    [
        ("", None),
        ("./", None),
        ("train/", "classes from the last folder of each name (train/a)"),
        ("imagenet/train/", "classes from the last folder of each name (imagenet/train/a)"),
    ],
)
def test_folders_before_the_class_are_seen_through(opened, lead, says):
    dataset = opened(files(f"{lead}a/{{}}"), files(f"{lead}b/{{}}"))
    assert dataset.classes == ("a", "b")
    assert dataset.remarks == ([says] if says else [])


def test_packed_folders_with_images_of_one_stem_are_all_samples(opened):
    both = {"a/1.jpg": PICTURES[0], "a/1.png": PICTURES[1], "a/2.x.jpg": PICTURES[2], "a/2.y.jpg": PICTURES[3]}
    assert named(opened(both)) == both


def test_extras_of_a_sample_are_counted_not_trained(opened):
    members = {"1.jpg": PICTURES[0], "1.mask.png": PICTURES[1], "1.cls": b"0", "1.txt": b"a dog", "1.png": PICTURES[2]}
    members |= {"2.image.jpg": PICTURES[3], "2.depth.png": PICTURES[4], "2.cls": b"1"}
    dataset = opened(members)
    assert named(dataset) == {"1.jpg": PICTURES[0], "2.image.jpg": PICTURES[3]}
    assert dataset.passed_over.total == 4
    assert set(dataset.passed_over) == {".mask.png", ".txt", ".png", ".depth.png"}


def test_what_a_mac_adds_is_counted_and_never_a_sample_or_a_label(opened):
    junk = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "
    members = []
    for n in range(4):
        members += [
            (f"._{n}.cls", junk),
            (f"{n}.cls", b"%d" % (n % 2)),
            (f"./._{n}.jpg", junk),
            (f"{n}.jpg", PICTURES[n]),
        ]
    members += [("__MACOSX/._1.jpg", junk), (".DS_Store", junk), ("Thumbs.db", junk)]
    dataset = opened(members)
    assert labelled(dataset) == EXPECTED
    assert dataset.remarks == [
        "11 files passed over: 10 left by a system (train-000000.tar:._0.cls, train-000000.tar:./._0.jpg, "
        "train-000000.tar:._1.cls, ...), 1 hidden (train-000000.tar:.DS_Store)"
    ]


def test_a_set_without_copies_keeps_its_linked_images(opened):
    images = files("a/{}")
    links = {f"a/copy{n}.jpg": (tarfile.LNKTYPE, f"a/{n}.jpg") for n in range(4)}
    links |= {f"b/{n}.jpg": (tarfile.SYMTYPE, f"../a/{n}.jpg") for n in range(4)}
    dataset = opened(images | links)
    assert len(dataset) == 12
    assert named(dataset)["b/3.jpg"] == PICTURES[3]


def test_names_that_come_again(opened):
    twice = archive([("a/1.jpg", PICTURES[0]), ("b/1.jpg", PICTURES[1]), ("a/1.jpg", PICTURES[2])])
    dataset = opened(twice + archive({"a/1.jpg": PICTURES[3]}))
    assert named(dataset) == {"b/1.jpg": PICTURES[1], "a/1.jpg": PICTURES[2], "2@a/1.jpg": PICTURES[3]}
    assert "1 replaced by a later file of the same name" in dataset.remarks[0]
    assert labelled(dataset)[PICTURES[3]] == "a"


@pytest.mark.parametrize("extension", ["jfif", "avif", "jp2", "webp", "JPG", "tiff"])
def test_images_under_any_usual_name_are_samples(opened, extension):
    assert len(opened(files("a/{}", extension=extension))) == 4


def test_other_files_are_counted(opened):
    dataset = opened({"a/1.jpg": PICTURES[0], "a/readme.md": b"", "a/list": b"", "a/x.heic": b"", "a/y.heic": b""})
    assert dataset.remarks == [
        "4 files passed over: 2 .heic (train-000000.tar:a/x.heic, train-000000.tar:a/y.heic), "
        "1 .md (train-000000.tar:a/readme.md), 1 without an extension (train-000000.tar:a/list)"
    ]


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"1.jpg": b"x"}, "train-000000.tar:1.jpg has no class: expected a .cls beside it, a .json with a label or a list of"),
        ({"1.jpg": b"x", "1.json": b"[3, true]"}, "1.json has True among several labels"),
        ({"1.jpg": b"x", "1.json": b'{"label": true}'}, "1.jpg has no class"),
        ({"1.jpg": b"x", "1.json": b'{"label": 1.5}'}, "1.jpg has no class"),
        ({"1.jpg": b"x", "1.json": b'{"label": "\\ud800"}'}, "which is no text; rename it"),
        ({"1.jpg": b"x", "1.cls": b"1", "1.label": b"2"}, "1.jpg has two classes: 1.cls says '1' and 1.label '2'; keep one"),
        ({"a.1.jpg": b"x", "a.1.cls": b"cat", "a.2.jpg": b"x"}, "train-000000.tar:a.2.jpg has no class"),
        ({"a.1.jpg": b"x", "a.2.jpg": b"x", "a.x.cls": b"1", "a.y.cls": b"2"}, "a.1.jpg has two classes"),
        ({"1.jpg": b"x", "1.json": b"{3]"}, "train-000000.tar:1.json is damaged"),
        ({"1.jpg": b"x", "1.json": b"[" * 100_000}, "train-000000.tar:1.json is damaged"),
        ({"1.jpg": b"x", "1.cls": b""}, "train-000000.tar:1.cls is no class: expected one line of text"),
        ({"1.jpg": b"x", "1.cls": b"cat\ndog"}, "1.cls is no class"),
        ({"1.jpg": b"x", "1.cls": b"cat/"}, "1.cls is no class"),
        ({"1.jpg": b"x", "1.cls": b"\x00\x05\x16"}, "1.cls is no class"),
        ({"1.jpg": b"x", "1.cls": b"\x80\x04K\x03."}, "1.cls is no class"),
        ({"1.jpg": b"x", "1.cls": b"-1"}, "a sample has the label -1, which is no class"),
        ({"1.jpg": b"x", "1.cls": b"cat", "d/2.jpg": b"x"}, "some samples have a label of their own ('cat') and others only"),
        ({"1.cls": b"1", "2.txt": b""}, "holds no images (2 files passed over: 1 .cls (1.cls), 1 .txt (2.txt)); remove it"),
        ({"n01440764.tar": b"x"}, "of ImageNet's own archives python pipelines/prepare.py imagenet makes a dataset"),
        ({}, "holds no images; remove it or make it again"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_one_line(opened, members, says):
    with pytest.raises(DataError) as error:
        opened(members)
    assert says in str(error.value)

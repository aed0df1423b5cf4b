"""Every file of a tar is found, as tar itself finds it when the archive is whole; damage is named with its place."""

import io
import os
import subprocess
import tarfile

import numpy as np
import pytest

from pipelines import DataError
from pipelines.datasets.passed_over import PassedOver
from pipelines.datasets.tar_files import BLOCK, list_files
from tars import FORMATS, archive

FILES = {f"cat/{number}.jpg": bytes([number]) * (300 * number + 1) for number in range(8)}


@pytest.fixture
def listed(tmp_path):
    """``listed(bytes) -> ({name: content}, passed over)``."""

    def read(data: bytes):
        (tmp_path / "x.tar").write_bytes(data)
        passed_over = PassedOver()
        files = list_files(tmp_path / "x.tar", passed_over)
        assert len({file.name for file in files}) == len(files)
        return {file.name: data[file.place : file.place + file.size] for file in files}, passed_over

    return read


@pytest.mark.parametrize("form", FORMATS)
def test_names_sizes_and_places_are_tarfiles(listed, form):
    long = {"/".join(["deep" * 8] * 4) + f"/{number}.jpg": b"x" * number for number in range(3)}
    files = FILES | long | {"café/ü.jpg": b"12", "empty.jpg": b"", "block.jpg": b"b" * BLOCK}
    if form != "ustar":
        files |= {"n" * 300 + ".jpg": b"!", os.fsdecode(b"caf\xe9/\xff.jpg"): b"?"}
    found, passed_over = listed(archive(files, form))
    assert found == files
    assert not passed_over


def test_headers_that_extend_others_are_read(listed):
    assert listed(archive(FILES, "pax", mtime=1.5, pax_headers={"LIBARCHIVE.xattr.x": "y"}))[0] == FILES
    data = archive(FILES, "pax")
    glob = tarfile.TarInfo.create_pax_global_header({"comment": "from git"})
    assert listed(glob + data)[0] == FILES


def test_links_are_followed_to_what_they_name(listed):
    hard, soft = tarfile.LNKTYPE, tarfile.SYMTYPE
    links = {
        "cat/twin.jpg": (hard, "cat/3.jpg"), "./dog/far.jpg": (soft, "../cat/4.jpg"), "dog/near.jpg": (soft, "far.jpg"),
        "dog/ahead.jpg": (soft, "later.jpg"), "dog/later.jpg": b"later",
    }  # fmt: skip
    wrong = {
        "dog/none.jpg": (soft, "nothing.jpg"), "dog/out.jpg": (soft, "/etc/passwd"), "dog/loop.jpg": (soft, "loop.jpg"),
        "dog/pipe.jpg": (tarfile.FIFOTYPE, ""), "dog": (tarfile.DIRTYPE, ""), "dogs.jpg": (soft, "dog"),
    }  # fmt: skip
    found, passed_over = listed(archive(FILES | links | wrong))
    assert {name: found[name] for name in links} == {
        "cat/twin.jpg": FILES["cat/3.jpg"], "./dog/far.jpg": FILES["cat/4.jpg"], "dog/near.jpg": FILES["cat/4.jpg"],
        "dog/ahead.jpg": b"later", "dog/later.jpg": b"later",
    }  # fmt: skip
    assert len(found) == len(FILES) + len(links)
    assert passed_over == {
        "link to nothing in its archive": (2, ["dog/none.jpg", "dog/out.jpg"]),
        "link to a folder": (1, ["dogs.jpg"]),
        "link to itself": (1, ["dog/loop.jpg"]),
        "pipe": (1, ["dog/pipe.jpg"]),
    }


def test_the_last_of_one_name_counts_as_when_unpacked(listed):
    found, passed_over = listed(archive([*FILES.items(), ("cat/1.jpg", b"newer")]))
    assert found == FILES | {"cat/1.jpg": b"newer"}
    assert passed_over == {"replaced by a later file of the same name": (1, ["cat/1.jpg"])}


def test_a_hard_link_keeps_the_file_that_is_replaced_later(listed, tmp_path):
    members = [
        ("a", b"old"),
        ("link", (tarfile.LNKTYPE, "a")),
        ("late", (tarfile.LNKTYPE, "b")),
        ("a", b"new"),
        ("b", b"b"),
    ]
    found, passed_over = listed(archive(members))
    assert found == {"link": b"old", "a": b"new", "late": b"b", "b": b"b"}
    assert passed_over == {"replaced by a later file of the same name": (1, ["a"])}
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    subprocess.run(
        ["tar", "-xf", tmp_path / "x.tar", "-C", unpacked], check=False
    )  # it refuses the link that comes too early
    assert (unpacked / "link").read_bytes() == b"old"
    assert (unpacked / "a").read_bytes() == b"new"


def test_archives_one_behind_the_other_are_all_read(listed):
    second = {"cat/1.jpg": b"of the second", "cat/new.jpg": b"new"}
    for between in (b"", bytes(3 * BLOCK)):
        found, passed_over = listed(archive(FILES) + between + archive(second))
        assert found == FILES | {"2@cat/1.jpg": b"of the second", "cat/new.jpg": b"new"}
        assert not passed_over


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_files_with_holes_are_named_and_whole_ones_read(tmp_path, form):
    (tmp_path / "in").mkdir()
    with (tmp_path / "in/holes.jpg").open("wb") as file:
        file.write(b"begin")
        file.seek(1 << 20)
        file.write(b"end")
    (tmp_path / "in/whole.jpg").write_bytes(bytes(range(256)) * 40)
    command = ["tar", "--sparse", f"--format={form}", "-cf", tmp_path / "x.tar", "-C", tmp_path / "in"]
    subprocess.run([*command, "holes.jpg", "whole.jpg"], check=True)
    passed_over = PassedOver()
    (whole,) = list_files(tmp_path / "x.tar", passed_over)
    data = (tmp_path / "x.tar").read_bytes()
    assert data[whole.place : whole.place + whole.size] == (tmp_path / "in/whole.jpg").read_bytes()
    (kind,) = passed_over
    assert kind == "stored with holes (tar --sparse)"


WHOLE = archive(FILES)


def starts() -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(WHOLE)) as tar:
        return [member.offset for member in tar.getmembers()]


def damaged(what: str) -> bytes:
    header, data = starts()[5], bytearray(WHOLE)
    if what == "a flipped bit":
        data[header + 3] ^= 1
    elif what == "a zeroed header":
        data[header : header + BLOCK] = bytes(BLOCK)
    elif what == "zeros over a header and more":
        data[header : header + 3 * BLOCK] = bytes(3 * BLOCK)
    elif what == "a size too large":
        data[header + 124 : header + 135] = b"77777777777"
    elif what == "garbage at the end":
        data += b"garbage"
    elif what == "garbage within the end":
        data[-3000:-2990] = b"0123456789"
    elif what == "no end":
        del data[starts()[-1] + BLOCK + 5 * BLOCK :]
    elif what == "half an end":
        del data[starts()[-1] + BLOCK + 5 * BLOCK + BLOCK :]
    else:
        del data[header + int(what.rpartition(" ")[2]) :]
    return bytes(data)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("a flipped bit", r"at byte {5}, behind cat/4.jpg: a header cannot be read"),
        ("a zeroed header", r"at byte {5}, behind cat/4.jpg: zeros stand where a header should"),
        ("zeros over a header and more", r"behind its end: a header cannot be read"),
        ("a size too large", r"at byte {5}, behind cat/4.jpg"),
        ("garbage at the end", "behind its end: it is cut off: a header ends early"),
        ("garbage within the end", "behind its end: a header cannot be read"),
        ("no end", "behind cat/7.jpg: it is cut off: its end mark is missing"),
        ("half an end", "behind cat/7.jpg: its end mark is cut off"),
        ("cut at 0", r"at byte {5}, behind cat/4.jpg: it is cut off: its end mark is missing"),
        ("cut at 200", r"at byte {5}, behind cat/4.jpg: it is cut off: a header ends early"),
        ("cut at 700", r"at byte {5}, behind cat/4.jpg: it is cut off in cat/5.jpg"),
    ],
)
def test_damage_is_named_with_its_place(listed, what, says):
    says = says.replace("{5}", f"{starts()[5]:,}")
    with pytest.raises(DataError, match=rf"x.tar is damaged or no tar file, .*{says}.*; copy or make it again"):
        listed(damaged(what))


def test_no_flipped_bit_of_a_header_goes_unnoticed(listed):
    """tarfile alone would list fewer files without a word."""
    generator = np.random.default_rng(0)
    for place in generator.integers(0, BLOCK, 60).tolist():
        data = bytearray(WHOLE)
        data[starts()[int(generator.integers(8))] + place] ^= 1 << int(generator.integers(8))
        try:
            found, _ = listed(bytes(data))
        except DataError:
            continue
        assert 148 <= place < 156  # a blank or a zero of the checksum's own field
        assert found == FILES


def test_no_cut_goes_unnoticed(listed):
    end = len(WHOLE.rstrip(b"\0"))
    end += -end % BLOCK + 2 * BLOCK
    for cut in [*range(0, end, 97), end - 1]:
        with pytest.raises(DataError, match="damaged or no tar file"):
            listed(WHOLE[:cut])
    assert listed(WHOLE[:end])[0] == FILES


def test_a_name_with_a_zero_byte_is_damage(listed):
    data = archive({"x": b"1"}, "pax", pax_headers={"path": "cat/1\0.jpg"})
    with pytest.raises(DataError, match=r"at byte 0: a name holds a zero byte"):
        listed(data)


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_a_compressed_archive_is_said_to_be_one(tmp_path, mode):
    with tarfile.open(tmp_path / "x.tar", f"w:{mode}"):
        pass
    with pytest.raises(DataError, match=r"x.tar is compressed \((gzip|bzip2|xz)\); .*: unpack it"):
        list_files(tmp_path / "x.tar", PassedOver())

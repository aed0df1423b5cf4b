"""Peers do the work that is asked of them, and a loader that does other work is found out."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_jpeg, read_file

from benchmarks.measuring.budget import Budget
from benchmarks.measuring.photos import HEIGHT, WIDTH, recovered_crops, write_gradients, write_shards
from benchmarks.peers import loaders
from benchmarks.peers.equal_work import Work, differences, expected, observe
from benchmarks.peers.loaders import LOADERS, DataJob
from benchmarks.peers.networks import build_peer, peer_step, peers_of
from benchmarks.reporting.results import Result
from benchmarks.throughput import Comparison
from pipelines import TrainPlan, build_loader, open_dataset

IMAGES = 96


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = write_gradients(tmp_path_factory.mktemp("gradients"), IMAGES)
    return DataJob(folder, tmp_path_factory.mktemp("work"), batch_size=32, resolution=48, workers=1)


@pytest.fixture(scope="module")
def dataset(job):
    return open_dataset(job.folder, "train", progress=False)


def our_batches(job, dataset, **changes):
    plan = TrainPlan(len(dataset), 32, **{"scale": job.scale, "ratio": job.ratio, "flip": job.flip} | changes)
    with build_loader(dataset, plan, "native", batch_size=32, resolution=job.resolution, workers=1) as loader:
        yield from loader


def test_a_batch_that_a_worker_sends_takes_few_file_descriptors(job):
    """torchvision's batched decoder on a GPU: three tensors, of however many images, and all bytes in their order."""
    files = [
        torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        for path in sorted(job.folder.rglob("*.jpg"))[:5]
    ]
    encoded, lengths, labels = loaders.encoded_and_labels([(file, number) for number, file in enumerate(files)])
    assert all(torch.equal(a, b) for a, b in zip(encoded.split(lengths.tolist()), files, strict=True))
    assert labels.tolist() == [0, 1, 2, 3, 4]


def test_crops_are_recovered_from_the_pixels(job, dataset):
    plan = TrainPlan(len(dataset), 32)
    for batch in our_batches(job, dataset):
        indices = batch.indices.numpy()
        boxes = plan.boxes(0, indices, dataset.sizes(indices))
        found = recovered_crops(batch.images)
        assert np.abs(found[:, 0] - boxes[:, 2] * boxes[:, 3] / (WIDTH * HEIGHT)).max() < 0.03
        assert np.abs(np.log(found[:, 1]) - np.log(boxes[:, 2] / boxes[:, 3])).max() < 0.05
        assert (found[:, 2] == plan.flips(0, indices)).all()


def test_our_own_loader_does_what_is_asked(job, dataset):
    work = observe(lambda: (batch.images for batch in our_batches(job, dataset)))
    assert len(work.crops) == IMAGES
    assert differences(work, job) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"scale": (0.8, 1.0)}, "area"), ({"flip": 0.0}, "mirrored"), ({"ratio": (2.0, 2.0)}, "ratio")],
)
def test_a_loader_that_does_other_work_is_found_out(job, dataset, changes, named):
    work = observe(lambda: (batch.images for batch in our_batches(job, dataset, **changes)))
    found = differences(work, job)
    assert any(named in difference for difference in found), found


def test_another_type_or_size_is_found_out(job, dataset):
    def smaller_floats():
        for batch in our_batches(job, dataset):
            yield batch.images[:, :, :40, :40].float()

    assert {"dtype is float32, not uint8", "size is (40, 40), not (48, 48)"} <= set(
        differences(observe(smaller_floats), job)
    )


def test_what_many_crops_tell_apart_few_do_not(job):
    crops = expected(job)
    assert 0.3 < crops[:, 0].mean() < 0.6
    shifted = crops + np.array([0.06, 0.0, 0.0])
    few, many = (Work("uint8", (48, 48), shifted[::step]) for step in (40, 1))
    assert differences(few, job) == []
    assert [words.split(" is ")[0] for words in differences(many, job)] == ["mean area"]


# FFCV compiles its decoder for half a minute; the pipelines' tests run FFCV every time.
MARKS = {"ffcv": pytest.mark.soak, "torchvision_cuda": pytest.mark.gpu}


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, ())) for name in LOADERS])
def test_a_data_peer_does_equal_work(name, job, tmp_path):
    own = DataJob(job.folder, tmp_path, job.batch_size, job.resolution, job.workers)
    passes = LOADERS[name](own)
    assert differences(observe(passes), own) == []
    assert len(observe(passes).crops) == IMAGES  # a second pass is a whole pass again
    assert LOADERS[name].__doc__


def test_a_peer_that_needs_a_gpu_is_a_row_that_says_so_and_the_others_go_on(job, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    data = SimpleNamespace(crop_scale=job.scale, crop_ratio=job.ratio, flip=job.flip)
    config = SimpleNamespace(data=data, network=SimpleNamespace(name="debug"))
    ours = SimpleNamespace(config=config, resolution=job.resolution, batching=SimpleNamespace(batch_size=32))
    ours.bf16 = False
    options = SimpleNamespace(
        peers=["torchvision_cuda", "torchvision"], stores=[], workers=1, folder=job.folder, seconds=0.1, quality=85
    )
    result = Result("throughput")
    alone, images = SimpleNamespace(world_size=1), range(IMAGES)
    comparison = Comparison("debug", options, alone, images, None, Budget(1e9), tmp_path, result)
    comparison._prepare_others(ours)
    assert list(comparison.subjects) == ["debug | data | torchvision | 1 workers, batch 32"]
    (row,) = result.rows
    assert (row.case["of"], row.value, row.failure) == ("torchvision_cuda", None, "RuntimeError: needs a GPU")


@pytest.mark.filterwarnings("ignore:The image decoding")  # the peer is torchvision's decoder
def test_what_follows_the_decode_on_a_gpu_is_equal_work(job):
    """The crops of the peer on the GPU, here with torchvision's decoder on the CPU in place of nvJPEG."""
    folder = job.folder / "train"
    files = ImageFolder(str(folder), loader=read_file)
    joined, lengths, labels = loaders.encoded_and_labels([files[number] for number in range(IMAGES)])
    assert labels.tolist() == files.targets
    encoded = list(joined.split(lengths.tolist()))
    crop = loaders.crop(job)
    batches = torch.stack([crop(image) for image in decode_jpeg(encoded, ImageReadMode.RGB)]).split(32)
    assert differences(observe(lambda: batches), job) == []


def test_shards_hold_every_image_once_with_its_class(job, tmp_path):
    import tarfile

    names = []
    for shard in write_shards(job.folder / "train", tmp_path, 3):
        with tarfile.open(shard) as tar:
            names += tar.getnames()
            labels = {tar.extractfile(m).read().decode() for m in tar.getmembers() if m.name.endswith("cls")}
        assert labels == {"0", "1", "2", "3"}  # classes are mixed in every shard
    assert sorted(names) == sorted(f"{n:06d}.{kind}" for n in range(IMAGES) for kind in ("jpg", "cls"))


def test_a_network_peer_steps_and_learns_nothing_it_should_not():
    assert peers_of("inception_v3") == ["torchvision", "timm"]
    assert peers_of("debug") == []
    network = build_peer("torchvision", "googlenet", num_classes=10)
    before = network.fc.weight.detach().clone()
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    peer_step(network, images, torch.tensor([1, 2]), bf16=False, compile_mode=None)()
    assert 0 < (network.fc.weight - before).abs().max() < 1e-2

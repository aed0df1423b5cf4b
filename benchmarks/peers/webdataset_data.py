"""WebDataset over local tar shards, in the pipeline that its documentation gives for ImageNet."""

from __future__ import annotations

import webdataset as wds

from benchmarks.measuring.photos import write_shards
from benchmarks.peers import DataJob, Passes
from benchmarks.peers.torchvision_data import transform

SETTING = (
    "tar shards read sequentially, shuffle buffer of 1,000, Pillow, torchvision transforms, batched in the workers"
)


def passes(job: DataJob) -> Passes:
    shards = write_shards(job.folder / "train", job.work / "shards", count=max(4, 2 * job.workers))
    dataset = (
        wds.WebDataset([str(shard) for shard in shards], shardshuffle=100, nodesplitter=wds.split_by_node)
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(transform(job), int)
        .batched(job.batch_size, partial=False)
    )
    loader = wds.WebLoader(
        dataset, batch_size=None, num_workers=job.workers, persistent_workers=job.workers > 0, shuffle=False
    )
    return lambda: (images for images, _ in loader)

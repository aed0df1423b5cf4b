"""The names that torchvision, timm, Cadene's pretrained models, pytorchcv and facenet-pytorch give to our modules.

Facts about their files, read from the state dicts that their networks have.
"""

from collections.abc import Mapping, Sequence
from itertools import count

from inception.vocabulary.errors import NetworkError
from inception.weights.normalisation import IMAGENET_MEAN, IMAGENET_STD
from inception.weights.others_layouts import Layout, Naming


def listed(tables: Mapping[str, str], otherwise: Naming) -> Naming:
    """Names from a table by kind of part (inception_a for inception_a3); parts that are not in it by a rule."""

    def naming(part: str, inside: Sequence[str]) -> Sequence[str]:
        table = tables.get(part.rstrip("0123456789"))
        return table.split() if table else otherwise(part, inside)

    return naming


def same(part: str, inside: Sequence[str]) -> Sequence[str]:
    """The branches are called as here."""
    return inside


def from_zero(part: str, inside: Sequence[str]) -> Sequence[str]:
    """Branches are counted from 0, and a residual block holds them itself, with its projection as `conv2d`."""
    names = []
    for name in inside:
        branch, *rest = name.removeprefix("body.").split(".")
        number = branch.removeprefix("branch")
        names.append("conv2d" if name == "project" else ".".join((f"branch{int(number) - 1}", *rest)))
    return names


def pytorchcv(part: str, inside: Sequence[str]) -> Sequence[str]:
    """Branches under `branches`; the convolutions of one are `conv`, or `conv1`, ... in a `conv_list`."""
    names = []
    for name in inside:
        if name == "project":
            names.append("conv")
            continue
        branch, *rest = name.removeprefix("body.").split(".")
        chain = [other for other in inside if other.removeprefix("body.").split(".")[0] == branch]
        if len(rest) == 2:
            tail = {"branch1": "conv1x3", "branch2": "conv3x1"}[rest[1]]
        elif len(chain) > 1 or part == "reduction_a":
            tail = f"conv_list.conv{chain.index(name) + 1}"
        else:
            tail = "conv"
        names.append(f"branches.{branch}.{tail}")
    return names


def pytorchcv_v2(part: str, inside: Sequence[str]) -> Sequence[str]:
    """As `pytorchcv`, without lists; single convolutions have no name of their own."""
    names = pytorchcv("", inside)
    return [
        n.replace("conv_list.", "") if "conv_list" in n or "branch4" in n else n.removesuffix(".conv") for n in names
    ]


def cadene_v2(part: str, inside: Sequence[str]) -> Sequence[str]:
    """Caffe's names: what a convolution does."""
    reduced = "3x3_reduce 3x3 double_3x3_reduce double_3x3_1 double_3x3_2"
    return (reduced if len(inside) == 5 else f"1x1 {reduced} pool_proj").split()


def pairs(ours: str, theirs: str) -> list[tuple[str, str]]:
    """Words paired; `name1-4` stands for name1 name2 name3 name4."""
    return list(zip(expanded(ours), expanded(theirs), strict=True))


def expanded(words: str) -> list[str]:
    """The words of `words`, ranges written out."""
    result: list[str] = []
    for word in words.split():
        start, dash, last = word.rpartition("-")
        if not dash:
            result.append(word)
            continue
        stem = start.rstrip("0123456789")
        result += [f"{stem}{number}" for number in range(int(start[len(stem) :]), int(last) + 1)]
    return result


def pytorchcv_stages(stages: str) -> str:
    """Their names of our stages: a reduction opens a new stage of theirs."""
    names, stage, unit = [], 1, count(1)
    for name in expanded(stages):
        if name.startswith("reduction") or name in ("inception_3c", "inception_4e"):
            stage, unit = stage + 1, count(1)
        names.append(f"features.stage{stage}.unit{next(unit)}")
    return " ".join(names)


STAGES_V2 = "inception_3a inception_3b inception_3c inception_4a inception_4b inception_4c inception_4d inception_4e " \
    "inception_5a inception_5b"  # fmt: skip
STAGES_V3 = "inception_a1-3 reduction_a inception_b1-4 reduction_b inception_c1-2"
STAGES_V4 = "inception_a1-4 reduction_a inception_b1-7 reduction_b inception_c1-3"
STAGES_R1 = "inception_a1-5 reduction_a inception_b1-10 reduction_b inception_c1-6"
STAGES_R2 = "inception_a1-10 reduction_a inception_b1-20 reduction_b inception_c1-10"

STEM_V3 = pairs("stem.0-2 stem.4-5", "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 Conv2d_3b_1x1 Conv2d_4a_3x3")
BLOCKS_V3 = {
    "inception_a": "branch1x1 branch5x5_1 branch5x5_2 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3 branch_pool",
    "reduction_a": "branch3x3 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3",
    "inception_b": "branch1x1 branch7x7_1 branch7x7_2 branch7x7_3 branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 "
    "branch7x7dbl_4 branch7x7dbl_5 branch_pool",
    "reduction_b": "branch3x3_1 branch3x3_2 branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4",
    "inception_c": "branch1x1 branch3x3_1 branch3x3_2a branch3x3_2b branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a "
    "branch3x3dbl_3b branch_pool",
    "auxiliary": "conv0 conv1 fc",
}
BLOCKS_V4 = {
    "inception_c": "branch0 branch1_0 branch1_1a branch1_1b branch2_0 branch2_1 branch2_2 branch2_3a branch2_3b branch3.1"
}
MIXED_V3 = pairs(
    "inception_a1-3 reduction_a inception_b1-4 auxiliary1 reduction_b inception_c1-2",
    "Mixed_5b Mixed_5c Mixed_5d Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e AuxLogits Mixed_7a Mixed_7b Mixed_7c",
)
PARTS_V4 = pairs(
    f"stem.0-2 stem.3.branch2 stem.4 stem.5.branch1 {STAGES_V4} classifier",
    "features.0-2 features.3.conv features.4 features.5.conv features.6-21 last_linear",
)
STEM_R = "conv2d_1a conv2d_2a conv2d_2b conv2d_3b conv2d_4a"
PARTS_R2 = pairs(
    f"stem.0-2 stem.4-5 stem.7 {STAGES_R2} last",
    f"{STEM_R} mixed_5b repeat.0-9 mixed_6a repeat_1.0-19 mixed_7a repeat_2.0-8 block8 conv2d_7b",
)


def pytorchcv_layout(network: str, stem: str, their_stem: str, stages: str, ends: str, their_ends: str) -> Layout:
    """pytorchcv's names for one of the networks whose blocks hold lists of convolutions."""
    parts = pairs(f"{stem} {stages} {ends}", f"{their_stem} {pytorchcv_stages(stages)} {their_ends}")
    return Layout(network, "pytorchcv", parts, pytorchcv, mean=IMAGENET_MEAN, std=IMAGENET_STD)


LAYOUTS = (
    Layout(
        "googlenet",
        "torchvision",
        pairs(
            "stem.0 stem.2 stem.3 inception_3a inception_3b inception_4a inception_4b inception_4c inception_4d "
            "inception_4e inception_5a inception_5b auxiliary1-2 classifier",
            "conv1-3 inception3a inception3b inception4a inception4b inception4c inception4d "
            "inception4e inception5a inception5b aux1-2 fc",
        ),
        listed({"auxiliary": "conv fc1 fc2"}, same),
    ),
    Layout(
        "inception_v2",
        "Cadene",
        pairs(
            f"stem.0 stem.2 stem.3 {STAGES_V2} classifier",
            f"conv1_7x7_s2 conv2_3x3_reduce conv2_3x3 {STAGES_V2} last_linear",
        ),
        cadene_v2,
        join="_",
        conv="{}",
        bn="{}_bn",
        mean=(128 / 255, 117 / 255, 104 / 255),
        std=(1 / 255, 1 / 255, 1 / 255),
        bgr=True,
    ),
    Layout(
        "inception_v2",
        "pytorchcv",
        pairs(
            f"stem.0 stem.2 stem.3 {STAGES_V2} classifier",
            "features.init_block.conv1 features.init_block.conv2.conv1 features.init_block.conv2.conv2 "
            f"{pytorchcv_stages(STAGES_V2)} output",
        ),
        pytorchcv_v2,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    Layout("inception_v3", "torchvision or timm", [*STEM_V3, *MIXED_V3, ("classifier", "fc")], listed(BLOCKS_V3, same)),
    Layout("inception_v3", "Cadene", [*STEM_V3, *MIXED_V3, ("classifier", "last_linear")], listed(BLOCKS_V3, same)),
    pytorchcv_layout(
        "inception_v3", "stem.0-2 stem.4-5", "features.init_block.conv1-5", STAGES_V3, "classifier", "output.fc"
    ),
    Layout("inception_v4", "timm or Cadene", PARTS_V4, listed(BLOCKS_V4, from_zero)),
    pytorchcv_layout(
        "inception_v4",
        "stem.0-2 stem.3 stem.4 stem.5",
        "features.init_block.conv1-3 features.init_block.block1-3",
        STAGES_V4,
        "classifier",
        "output.fc",
    ),
    pytorchcv_layout(
        "inception_resnet_v1",
        "stem.0-2 stem.4-6",
        "features.init_block.conv1-6",
        STAGES_R1,
        "bottleneck.0 bottleneck.1 classifier",
        "output.fc1 output.bn output.fc2",
    ),
    Layout(
        "inception_resnet_v1",
        "facenet-pytorch",
        pairs(
            f"stem.0-2 stem.4-6 {STAGES_R1} bottleneck.0 bottleneck.1 classifier",
            f"{STEM_R} conv2d_4b repeat_1.0-4 mixed_6a repeat_2.0-9 mixed_7a repeat_3.0-4 block8 last_linear last_bn logits",
        ),
        from_zero,
        mean=(0.5, 0.5, 0.5),
        std=(128 / 255, 128 / 255, 128 / 255),
    ),
    Layout("inception_resnet_v2", "timm", [*PARTS_R2, ("classifier", "classif")], from_zero),
    Layout("inception_resnet_v2", "Cadene", [*PARTS_R2, ("classifier", "last_linear")], from_zero),
    pytorchcv_layout(
        "inception_resnet_v2",
        "stem.0-2 stem.4-5 stem.7",
        "features.init_block.conv1-5 features.init_block.block",
        STAGES_R2,
        "last classifier",
        "features.final_conv output.fc",
    ),
)


def layout_for(network: str, source: str) -> Layout:
    """The layout in which `source` (torchvision, timm, Cadene, pytorchcv, facenet-pytorch) can load `network`.

    Raises NetworkError, naming those that there are, when it has no such network.
    """
    known = [layout for layout in LAYOUTS if layout.network == network]
    for layout in known:
        if source in layout.source.split(" or "):
            return layout
    others = ", ".join(layout.source for layout in known) or "none"
    raise NetworkError(f"{source} has no {network}; known layouts of it: {others}")

"""Each network of the family as another project wrote it, in the width and with the weights of ours."""

import warnings

from torch import nn

from inception import Network
from inception.weights.others_names import layout_for

# timm's or torchvision's where they have the network; pytorchcv's else, whose Inception-v2 is called after its paper.
TWINS = {
    "googlenet": ("torchvision", "googlenet"),
    "inception_v2": ("pytorchcv", "bninception"),
    "inception_v3": ("torchvision", "inception_v3"),
    "inception_v4": ("timm", "inception_v4"),
    "inception_resnet_v1": ("pytorchcv", "inceptionresnetv1"),
    "inception_resnet_v2": ("timm", "inception_resnet_v2"),
}


def twin_of(ours: Network) -> tuple[str, nn.Module]:
    """Whose twin, and the twin: their modules and their forward pass on copies of the tensors of `ours`, so that it is as wide.

    `ours` has no auxiliary heads. Dropout is taken out, pooling for images of one size averages what there is, and a bias
    before a batch normalisation, which has no effect, goes.
    """
    source, name = TWINS[ours.name]
    theirs = _built(source, name, ours.num_classes)
    keys, own = layout_for(ours.name, source).keys(ours), ours.state_dict()
    for key, mine in keys.items():
        path, _, tensor = key.rpartition(".")
        module, value = theirs.get_submodule(path), own[mine].clone()
        setattr(module, tensor, nn.Parameter(value) if isinstance(getattr(module, tensor), nn.Parameter) else value)
    for path, module in theirs.named_modules():
        if isinstance(module, nn.Conv2d) and f"{path}.bias" not in keys:
            module.bias = None
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    return source, theirs


def _built(source: str, name: str, num_classes: int) -> nn.Module:
    if source == "timm":
        import timm

        return timm.create_model(name, num_classes=num_classes)
    if source == "torchvision":
        import torchvision

        make = getattr(torchvision.models, name)
        return make(num_classes=num_classes, aux_logits=False, init_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorchcv.model_provider import get_model

        network = get_model(name, num_classes=num_classes)
    network.features.final_pool, network.in_size = nn.AdaptiveAvgPool2d(1), None
    return network

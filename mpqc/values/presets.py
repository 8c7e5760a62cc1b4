"""Ways to feed pictures to networks that have a name, with their sources: one table."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mpqc.values.preprocessing import Preprocessing


@dataclass(frozen=True)
class Preset:
    """One named way to prepare pixels of 0..255."""

    preprocessing: Preprocessing
    channels: tuple[int, ...]
    """How many channels the network's input may have"""
    becomes: str
    """What 0..255 turns into"""
    networks: str
    """Which were trained so"""
    source: str


def _preset(name: str, preprocessing: Preprocessing, channels: tuple[int, ...], becomes: str, networks: str, source: str) -> Preset:
    return Preset(replace(preprocessing, name=name), channels, becomes, networks, source)


PRESETS: dict[str, Preset] = {
    preset.preprocessing.name: preset
    for preset in (
        _preset(
            "imagenet",
            Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale=1 / 255, resize="0.875"),
            (3,),
            "0..1, then ImageNet's mean and deviation",
            "torchvision, timm, the ONNX model zoo",
            "torchvision.transforms.ImageClassification",
        ),
        _preset(
            "unit",
            Preprocessing(scale=1 / 255),
            (1, 3, 4),
            "0..1",
            "PyTorch's ToTensor alone, YOLOv5 and later",
            "torchvision.transforms.ToTensor",
        ),
        _preset(
            "signed",
            Preprocessing(mean=(127.5,), std=(127.5,)),
            (1, 3, 4),
            "-1..1",
            "MobileNet, Inception and EfficientNet-lite of TensorFlow",
            "keras.applications.imagenet_utils, mode tf",
        ),
        _preset(
            "caffe",
            Preprocessing(mean=(103.939, 116.779, 123.68), bgr=True),
            (3,),
            "blue, green, red minus their means",
            "Caffe",
            "keras.applications.imagenet_utils, mode caffe",
        ),
        _preset("raw", Preprocessing(), (1, 3, 4), "0..255", "those that normalise inside, YOLOX", "the pixels"),
    )
}
"""Name -> preset"""

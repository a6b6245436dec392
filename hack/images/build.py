"""Builds the images that changed, and keeps an archive of each for the nodes."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from images import builders
from images.base import base_image
from images.builders import Builder
from images.targets import Built, archive_path, image_name, inputs_digest
from tools.locks import lock


def _megabytes_over(base_layers: Sequence[str], archive: Path) -> int:
    """The size, uncompressed where the archive is, of the layers that the image adds to its base."""
    with tarfile.open(archive) as members:
        manifest = members.extractfile("manifest.json")
        assert manifest is not None  # every archive that a builder saves has one
        layers = json.load(manifest)[0]["Layers"]
        return round(sum(members.getmember(layer).size for layer in layers[len(base_layers) :]) / 1e6)


def build(targets: Sequence[str], base: str, torch_index: str) -> Iterator[Built]:
    """Build each target unless it is built already from the same inputs."""
    builder = builders.choose()
    with lock("base-image"):
        chosen = base or base_image(builder)
    base_layers = builder.layers(chosen)
    for target in targets:
        with lock(f"image-{target}"):
            # The base by content: made or pulled again, it may be another one under the same name.
            inputs = inputs_digest(target, f"{builder.name} {chosen} {base_layers}", torch_index)
            record = Built.read(target)
            if record is None or record.inputs != inputs:
                arguments = {"BASE_IMAGE": chosen}
                if torch_index and target == "trainer":
                    arguments["TORCH_INDEX"] = torch_index
                record = _build(builder, target, inputs, arguments, base_layers)
        yield record


def _build(
    builder: Builder, target: str, inputs: str, arguments: Mapping[str, str], base_layers: Sequence[str]
) -> Built:
    image, archive = image_name(target), archive_path(target)
    builder.build(target, image, arguments)
    builder.export(image, archive)
    record = Built(target, image, inputs, _megabytes_over(base_layers, archive))
    record.write()
    return record

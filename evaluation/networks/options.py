"""Where the weights of the scores' networks are."""

from __future__ import annotations

from dataclasses import dataclass

from pointillist.configs.options import option


@dataclass
class Weights:
    inception_weights: str = option("", "file of the FID network, if it is not in the usual places")
    dinov2_weights: str = option("", "file of DINOv2 ViT-L/14")
    clip_weights: str = option("", "file of CLIP ViT-L/14-336")
    unverified: bool = option(False, "take weights that are not the published ones; scores then bear other names")

    def weights_of(self, network: str) -> str:
        """The file that was named for a network, "" for none."""
        named = {"inception": self.inception_weights, "dinov2": self.dinov2_weights, "clip": self.clip_weights}
        return named[network]

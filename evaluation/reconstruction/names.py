"""What a tokenizer's scores are called, and which network they look through."""

from __future__ import annotations

CODES = ("code_usage", "code_entropy", "code_entropy_share", "code_perplexity")
SEEN_BY = {"rfid": "inception", "pfid": "inception", "lpips_alex": "lpips_alex", "lpips_vgg": "lpips_vgg"}
PERTURBED = ("pfid", "perturbed_psnr")  # means over a grid
RECONSTRUCTION = ("rfid", "psnr", "ssim", "lpips_alex", "lpips_vgg", *CODES, *PERTURBED)
# What a number is called when the network's weights are not the published ones.
UNVERIFIED = {"rfid": "reconstruction_frechet", "pfid": "perturbed_frechet"}
UNVERIFIED |= {"lpips_alex": "perceptual_distance", "lpips_vgg": "perceptual_distance"}

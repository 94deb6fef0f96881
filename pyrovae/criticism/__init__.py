"""Whether to believe a fit: what latents carry, how good the guide is, calibration."""

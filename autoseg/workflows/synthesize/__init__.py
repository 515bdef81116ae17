"""Synthetic training cases: images that a diffusion model draws for varied label maps of training cases."""

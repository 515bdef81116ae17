"""Diffusion: the process that adds noise, and the network that removes it."""

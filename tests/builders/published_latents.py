"""Autoencoder and denoiser with the names and the forms of Stable Diffusion's code, of any width.

Written from the names, shapes and formulas of its publication; nothing of autoseg is used.
"""

from collections.abc import Sequence
from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional

LATENTS = 4


def norm(channels: int, epsilon: float) -> nn.GroupNorm:
    return nn.GroupNorm(gcd(32, channels), channels, eps=epsilon)


class Block(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(inner, 1e-6), nn.Conv2d(inner, outer, 3, padding=1)
        self.norm2, self.conv2 = norm(outer, 1e-6), nn.Conv2d(outer, outer, 3, padding=1)
        if inner != outer:
            self.nin_shortcut = nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(functional.silu(self.norm2(self.conv1(functional.silu(self.norm1(x))))))
        return y + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels, 1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        query, key, value = (part(y).flatten(2) for part in (self.q, self.k, self.v))
        weights = torch.softmax(query.transpose(1, 2) @ key / x.shape[1] ** 0.5, dim=-1)
        return x + self.proj_out((value @ weights.transpose(1, 2)).reshape(x.shape))


class Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = (
            Block(channels, channels),
            Attention(channels),
            Block(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Resolution(nn.Module):
    def __init__(self, inner: int, outer: int, blocks: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(Block(inner if index == 0 else outer, outer) for index in range(blocks))


class Resampling(nn.Module):
    def __init__(self, channels: int, *, is_reduction: bool) -> None:
        super().__init__()
        self.is_reduction = is_reduction
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 + is_reduction, padding=1 - is_reduction)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_reduction:
            return self.conv(functional.pad(x, (0, 1, 0, 1)))
        return self.conv(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


class Encoder(nn.Module):
    def __init__(self, features: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.conv_in, self.down = nn.Conv2d(3, features[0], 3, padding=1), nn.ModuleList()
        for index, wide in enumerate(features):
            self.down.append(Resolution(features[max(0, index - 1)], wide, blocks))
            if index < len(features) - 1:
                self.down[-1].downsample = Resampling(wide, is_reduction=True)
        self.mid, self.norm_out = Middle(features[-1]), norm(features[-1], 1e-6)
        self.conv_out = nn.Conv2d(features[-1], 2 * LATENTS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for down in self.down:
            for block in down.block:
                x = block(x)
            x = down.downsample(x) if hasattr(down, "downsample") else x
        return self.conv_out(functional.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, features: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.conv_in, self.mid = nn.Conv2d(LATENTS, features[-1], 3, padding=1), Middle(features[-1])
        self.up = nn.ModuleList()
        for index, wide in enumerate(features):
            self.up.append(Resolution(features[min(index + 1, len(features) - 1)], wide, blocks + 1))
            if index > 0:
                self.up[-1].upsample = Resampling(wide, is_reduction=False)
        self.norm_out, self.conv_out = norm(features[0], 1e-6), nn.Conv2d(features[0], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for up in reversed(self.up):
            for block in up.block:
                x = block(x)
            x = up.upsample(x) if hasattr(up, "upsample") else x
        return self.conv_out(functional.silu(self.norm_out(x)))


class PublishedAutoencoder(nn.Module):
    """The means of the latents of pictures, and back, without the factor of latents."""

    def __init__(self, features: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(features, blocks), Decoder(features, blocks)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(2 * LATENTS, 2 * LATENTS, 1), nn.Conv2d(LATENTS, LATENTS, 1)

    def encode(self, x: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(x))[:, :LATENTS]

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))


class StepBlock(nn.Module):
    def __init__(self, inner: int, outer: int, embedded: int, change: str = "") -> None:
        super().__init__()
        self.change = change
        self.in_layers = nn.Sequential(norm(inner, 1e-5), nn.SiLU(), nn.Conv2d(inner, outer, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedded, 2 * outer))
        self.out_layers = nn.Sequential(
            norm(outer, 1e-5), nn.SiLU(), nn.Dropout(0), nn.Conv2d(outer, outer, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1)

    def resample(self, x: Tensor) -> Tensor:
        if self.change == "down":
            return functional.avg_pool2d(x, 2)
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) if self.change == "up" else x

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        y = self.in_layers[2](self.resample(self.in_layers[1](self.in_layers[0](x))))
        scale, shift = self.emb_layers(embedding)[..., None, None].chunk(2, dim=1)
        y = self.out_layers[1:](self.out_layers[0](y) * (1 + scale) + shift)
        return self.skip_connection(self.resample(x)) + y


class HeadedAttention(nn.Module):
    """Each head has its queries, keys and values side by side."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, norm(channels, 1e-5)
        self.qkv, self.proj_out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norm(x.flatten(2))).chunk(self.heads, dim=1)
        attended = []
        for part in parts:
            query, key, value = part.chunk(3, dim=1)
            weights = torch.softmax(query.transpose(1, 2) @ key / query.shape[1] ** 0.5, dim=-1)
            attended.append(value @ weights.transpose(1, 2))
        return x + self.proj_out(torch.cat(attended, dim=1)).reshape(x.shape)


class PublishedDenoiser(nn.Module):
    """Estimates noise."""

    def __init__(
        self, features: Sequence[int], blocks: int, *, attending: int, heads: int, channels: int = LATENTS
    ) -> None:
        super().__init__()
        first, embedded = features[0], 4 * features[0]
        self.first = first
        self.time_embed = nn.Sequential(nn.Linear(first, embedded), nn.SiLU(), nn.Linear(embedded, embedded))
        self.input_blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(channels, first, 3, padding=1))])
        kept, wide = [first], first
        for stage, outer in enumerate(features):
            if stage > 0:
                self.input_blocks.append(nn.Sequential(StepBlock(wide, wide, embedded, "down")))
                kept.append(wide)
            for _ in range(blocks):
                attention = [HeadedAttention(outer, heads)] if stage < attending else []
                self.input_blocks.append(nn.Sequential(StepBlock(wide, outer, embedded), *attention))
                kept.append(outer)
                wide = outer
        self.middle_block = nn.Sequential(
            StepBlock(wide, wide, embedded), HeadedAttention(wide, heads), StepBlock(wide, wide, embedded)
        )
        self.output_blocks = nn.ModuleList()
        for stage, outer in reversed(list(enumerate(features))):
            for index in range(blocks + 1):
                layers: list[nn.Module] = [StepBlock(wide + kept.pop(), outer, embedded)]
                layers += [HeadedAttention(outer, heads)] if stage < attending else []
                layers += [StepBlock(outer, outer, embedded, "up")] if stage > 0 and index == blocks else []
                self.output_blocks.append(nn.Sequential(*layers))
                wide = outer
        self.out = nn.Sequential(norm(wide, 1e-5), nn.SiLU(), nn.Conv2d(first, LATENTS, 3, padding=1))

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        half = self.first // 2
        angles = steps[:, None] * 10000 ** -(torch.arange(half) / half)
        embedding = self.time_embed(torch.cat((angles.cos(), angles.sin()), dim=1))
        kept: list[Tensor] = []
        for block in self.input_blocks:
            x = self.run(block, x, embedding)
            kept.append(x)
        x = self.run(self.middle_block, x, embedding)
        for block in self.output_blocks:
            x = self.run(block, torch.cat((x, kept.pop()), dim=1), embedding)
        return self.out(x)

    @staticmethod
    def run(layers: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
        for layer in layers.children():
            x = layer(x, embedding) if isinstance(layer, StepBlock) else layer(x)
        return x

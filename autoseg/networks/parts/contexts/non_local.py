"""Attention of every voxel to all others (Wang et al. 2020, arXiv:1812.04103)."""

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.parts.contexts.context import Context, ContextSite
from autoseg.networks.parts.layers import build_kernel, get_ones
from autoseg.networks.parts.tokens import attend, pool_tokens
from autoseg.plan.network.contexts import NonLocalPlan


class NonLocal(Context):
    """Adds to every voxel the mean of the values of all voxels, weighted by how well keys match its query."""

    def __init__(self, plan: NonLocalPlan, site: ContextSite) -> None:
        super().__init__(site)
        one = get_ones(site.kernel)
        self.heads = plan.heads
        self.tokens_limit = plan.tokens_limit
        inner = plan.heads * max(1, site.channels // plan.heads)
        self.query = build_kernel(site.channels, inner, one)
        self.key = build_kernel(site.channels, inner, one)
        self.value = build_kernel(site.channels, inner, one)
        self.output = build_kernel(inner, site.channels, one)

    def forward(self, features: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *space"]:
        """Adds what every voxel attends to."""
        tokens = pool_tokens(features, self.tokens_limit)
        query, key, value = (
            part.reshape(len(part), self.heads, part.shape[1] // self.heads, -1)
            for part in (self.query(features), self.key(tokens), self.value(tokens))
        )
        attended = attend(query * query.shape[2] ** -0.5, key, value)
        added: Tensor = self.output(attended.reshape(len(features), -1, *features.shape[2:]))
        return features + added

    def start_as_shortcut(self) -> None:
        """Sets the weights of the last product to 0 (Wang et al. 2018, arXiv:1711.07971).

        Drawn ones let the loss grow beyond 50 on pictures of retinal vessels.
        """
        nn.init.zeros_(self.output.get_parameter("weight"))

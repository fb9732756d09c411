"""The networks as torch modules, for what works with modules: Opacus and its hooks.

    module_of(network, model)(h) = network.logits(model, h)        model_of(module) = model

Weights keep their names, but for the head's, which have none before the dot and are 'head.' here.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float32
from torch import Tensor, nn
from torch.nn.functional import max_pool2d
from torch.nn.utils import skip_init

from fedlab.errors import BadInput
from fedlab.gradient.networks import CNN, Hidden, Linear, Model, Network

HEAD = "head"


class NetworkModule(nn.Module):
    """A network with weights.

    Args:
        network: Network: `Linear`, `Hidden` or `CNN`.
        model: Weights of the network, float32; they are copied.

    Raises:
        BadInput: Another network, of whose layers nothing is known.
    """

    def __init__(self, network: Network, model: Mapping[str, Tensor]):
        super().__init__()
        if not isinstance(network, (Linear, Hidden, CNN)):
            raise BadInput(
                f"network {type(network).__name__} has no torch module: DP-SGD trains linear, hidden and cnn"
            )
        self.network = network
        self.layers = nn.ModuleDict()
        for name, weight in model.items():
            layer, _, kind = name.rpartition(".")
            if kind == "weight":
                self.layers[layer or HEAD] = _layer(weight, model[f"{layer}.bias" if layer else "bias"])

    def forward(self, h: Float32[Tensor, "n d"]) -> Float32[Tensor, "n c"]:
        """Return the logits."""
        if isinstance(self.network, CNN):
            # Contiguous: where an image lies channels last, Opacus takes the wrong pixels for the gradient.
            image = h.unflatten(1, self.network.shape).permute(0, 3, 1, 2).contiguous()
            maps = self.layers["conv2"](self.layers["conv1"](image).relu())
            h = max_pool2d(maps, 2).relu().permute(0, 2, 3, 1).flatten(1)
        if "hidden" in self.layers:
            h = self.layers["hidden"](h).relu()
        return self.layers[HEAD](h)


def module_of(network: Network, model: Mapping[str, Tensor]) -> NetworkModule:
    """Return a module with a copy of these weights."""
    return NetworkModule(network, model)


def model_of(module: NetworkModule) -> Model:
    """Return a copy of a module's weights under the network's names."""
    return {
        name.removeprefix("layers.").removeprefix(f"{HEAD}."): weight.detach().clone()
        for name, weight in module.named_parameters()
    }


def _layer(weight: Tensor, bias: Tensor) -> nn.Module:
    # Without an initialisation of its own, which would draw from the global generator.
    kind, *kernel = (nn.Linear,) if weight.ndim == 2 else (nn.Conv2d, weight.shape[2])
    layer = skip_init(kind, weight.shape[1], weight.shape[0], *kernel, device=weight.device)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer

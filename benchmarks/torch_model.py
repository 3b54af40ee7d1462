"""The same graph in PyTorch; names and sizes of the parameters follow the linen model's tree."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, inputs: int, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(features)
        hidden = max(features // 16, 1)
        mlp = nn.ModuleDict(
            {"dense1": nn.Linear(features, hidden), "dense2": nn.Linear(hidden, features)}
        )
        self.cbam = nn.ModuleDict(
            {
                "channel": nn.ModuleDict({"mlp": mlp}),
                "spatial": nn.ModuleDict({"conv": nn.Conv2d(2, 1, 7, padding=3)}),
            }
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c1 = F.relu(self.norm1(self.conv1(x)))
        x = self.norm2(self.conv2(c1))
        mlp = self.cbam["channel"]["mlp"]
        hidden = [F.relu(mlp["dense1"](s)) for s in (x.mean((2, 3)), x.amax((2, 3)))]
        x = x * torch.sigmoid(mlp["dense2"](hidden[0]) + mlp["dense2"](hidden[1]))[:, :, None, None]
        maps = torch.cat([x.max(1, keepdim=True).values, x.mean(1, keepdim=True)], 1)
        return F.relu(c1 + x * torch.sigmoid(self.cbam["spatial"]["conv"](maps)))


class Pool(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2 * features, features, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.mix(torch.cat([F.max_pool2d(x, 2), F.avg_pool2d(x, 2)], 1)))


class Pyramid(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        for number, rate in enumerate((2, 4, 8), start=1):
            conv = nn.Conv2d(features, features, 3, padding=rate, dilation=rate)
            self.add_module(f"atrous{number}", conv)
        self.project = nn.Conv2d(3 * features, features, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = [F.relu(getattr(self, f"atrous{number}")(x)) for number in (1, 2, 3)]
        return F.relu(self.project(torch.cat(branches, 1)))


class Model(nn.Module):
    """`(B, 1, H, W)` to `(B,)` logits."""

    def __init__(self, stages: tuple[int, ...], image_size: int) -> None:
        super().__init__()
        inputs = 1
        for number, features in enumerate(stages, start=1):
            self.add_module(f"block{number}", Block(inputs, features))
            self.add_module(f"pool{number}", Pool(features))
            if number % 2 == 0:
                self.add_module(f"context{number // 2}", Pyramid(features))
            inputs = features
        self.hidden = nn.Linear((image_size // 16) ** 2 * inputs, 256)
        self.logit = nn.Linear(256, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name, layer in self.named_children():
            if name not in ("hidden", "logit"):
                x = layer(x)
        x = x.permute(0, 2, 3, 1).flatten(1)  # as linen flattens, so that weights carry over
        return self.logit(F.relu(self.hidden(x)))[:, 0]


def load(model: Model, variables: Mapping[str, Any]) -> None:
    """Takes over the linen model's `params` and `batch_stats`."""
    names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    state = model.state_dict()

    def visit(tree: Mapping[str, Any], path: tuple[str, ...]) -> None:
        for key, value in tree.items():
            if isinstance(value, Mapping):
                visit(value, (*path, key))
            else:
                tensor = torch.tensor(value)
                order = (3, 2, 0, 1) if tensor.ndim == 4 else tuple(reversed(range(tensor.ndim)))
                state[".".join((*path, names.get(key, key)))] = tensor.permute(order)

    for collection in ("params", "batch_stats"):
        visit(variables[collection], ())
    model.load_state_dict(state)

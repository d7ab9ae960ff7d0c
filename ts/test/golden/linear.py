import torch
import torch.nn.functional as F
from golden import leaf, save

functions = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu, "silu": F.silu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}
inputs = {"x": leaf(3, 2, 5), "weight": leaf(4, 5), "bias": leaf(4)}
save(__file__, [
    (kind, inputs, {"activation": kind}, lambda x, weight, bias, f=f: f(F.linear(x, weight, bias))) for kind, f in functions.items()
])

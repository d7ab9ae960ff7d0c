import torch.nn.functional as F
from golden import leaf, save

frozen = {"weight": leaf(4, 6).detach(), "bias": leaf(4).detach()}


def lora(x, weight, a, b, bias=None, adapterInput=None):
    z = x if adapterInput is None else adapterInput
    return F.linear(x, weight, bias) + 1.5 * F.linear(F.linear(z, a), b)


inputs = {"x": leaf(3, 2, 6), **frozen, "a": leaf(2, 6), "b": leaf(4, 2)}
save(__file__, [
    ("bias", inputs, {"scale": 1.5}, lora),
    ("own adapter input", {**inputs, "adapterInput": leaf(3, 2, 6, seed=2)}, {"scale": 1.5}, lora),
])

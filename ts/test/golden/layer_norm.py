import torch.nn.functional as F
from golden import leaf, save


def run(x, weight, bias, residual=None, eps=1e-5):
    return F.layer_norm(x if residual is None else x + residual, (x.shape[-1],), weight, bias, eps)


inputs = {"x": leaf(5, 7), "weight": leaf(7), "bias": leaf(7, seed=2)}
save(__file__, [
    ("plain", inputs, {}, run),
    ("residual, eps", {**inputs, "residual": leaf(5, 7, seed=3)}, {"eps": 0.1}, lambda **x: run(**x, eps=0.1)),
])

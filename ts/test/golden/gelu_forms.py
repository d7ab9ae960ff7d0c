import math

import torch
from golden import leaf, save

functions = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}
save(__file__, [(kind, {"x": leaf(3, 7)}, {"kind": kind}, lambda x, f=f: f(x)) for kind, f in functions.items()])

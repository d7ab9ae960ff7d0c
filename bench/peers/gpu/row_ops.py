"""Norms, activations, dropout and binary cross entropy, eager and compiled."""

import torch
import torch.nn.functional as F
from timing import Call, compiled, device, main, normal


def rms_norm(x, weight):
    return x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6).to(x.dtype) * weight


functions = {
    "layerNorm": lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias),
    "rmsNorm": lambda x, weight, _: F.rms_norm(x, x.shape[-1:], weight, 1e-6) if hasattr(F, "rms_norm") else rms_norm(x, weight),
    "normalize": lambda x, *_: F.normalize(x, dim=-1),
    "gelu": lambda x, *_: F.gelu(x),
    "silu": lambda x, *_: F.silu(x),
    "dropout": lambda x, *_: F.dropout(x, 0.1),
    "bceWithLogits": lambda x, labels, _: F.binary_cross_entropy_with_logits(x, labels),
}
fast = {name: compiled(function) for name, function in functions.items()}


def implementations(case, s, dtype):
    op = case["op"]

    def with_function(function):
        def make():
            if op == "bceWithLogits":
                x, labels = normal(s["rows"], leaf=True), normal(s["rows"]).sigmoid()
                return Call(lambda: function(x, labels, None), (x,), torch.ones((), device=device))
            x, dout = normal(s["rows"], s["width"], dtype=dtype, leaf=True), normal(s["rows"], s["width"], dtype=dtype)
            weight, bias = (normal(s["width"], dtype=dtype, leaf=True) for _ in range(2))
            return Call(lambda: function(x, weight, bias), (x, weight, bias), dout)

        return make

    yield "eager", with_function(functions[op])
    yield "compiled", with_function(fast[op]) if fast[op] else None


main(implementations)

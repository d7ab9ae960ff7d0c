"""Dense layer: F.linear (cuBLAS on a GPU), compiled with its activation."""

import torch
import torch.nn.functional as F
from timing import Call, compiled, main, normal


def plain(x, weight, bias):
    return F.linear(x, weight, bias)


def with_gelu(x, weight, bias):
    return F.gelu(F.linear(x, weight, bias))


plain_compiled, with_gelu_compiled = compiled(plain), compiled(with_gelu)


def implementations(case, s, dtype):
    rows, inputs, outputs = s["rows"], s["inputs"], s["outputs"]

    def with_function(function):
        def make():
            x, weight = normal(rows, inputs, dtype=dtype, leaf=True), normal(outputs, inputs, dtype=dtype, factor=inputs**-0.5, leaf=True)
            bias, dout = normal(outputs, dtype=dtype, leaf=True), normal(rows, outputs, dtype=dtype)
            return Call(lambda: function(x, weight, bias), (x, weight, bias), dout)

        return make

    yield "eager", with_function(with_gelu if s["gelu"] else plain)
    best = with_gelu_compiled if s["gelu"] else plain_compiled
    yield "compiled", with_function(best) if best else None


main(implementations)

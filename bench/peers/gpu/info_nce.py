"""InfoNCE: cross entropy over the table of all scores, eager and compiled."""

import torch
import torch.nn.functional as F
from timing import Call, compiled, device, main, normal


def loss(q, k, labels):
    return F.cross_entropy((q @ k.t()) * 20.0, labels)


loss_compiled = compiled(loss)


def implementations(case, s, dtype):
    rows, width = s["rows"], s["width"]

    def with_function(function):
        def make():
            q, k = (F.normalize(normal(rows, width), dim=-1).to(dtype).requires_grad_() for _ in range(2))
            labels = torch.arange(rows, device=device)
            return Call(lambda: function(q, k, labels), (q, k), torch.ones((), device=device, dtype=dtype))

        return make

    yield "eager", with_function(loss)
    yield "compiled", with_function(loss_compiled) if loss_compiled else None


main(implementations)

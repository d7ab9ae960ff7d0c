"""Attention: scaled_dot_product_attention with each backend forced, packed varlen, compiled FlexAttention; eager where there is no other."""

import torch
import torch.nn.functional as F
from timing import Call, compiled, device, main, normal

has_sdpa = hasattr(F, "scaled_dot_product_attention")
try:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backends = {"sdpa flash": SDPBackend.FLASH_ATTENTION, "sdpa cudnn": SDPBackend.CUDNN_ATTENTION, "sdpa efficient": SDPBackend.EFFICIENT_ATTENTION}
except ImportError:
    backends = {}
try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None
try:
    from torch.nn.attention.flex_attention import flex_attention

    flex = compiled(flex_attention)
except ImportError:
    flex = None


def implementations(case, s, dtype):
    items, keys, heads, width = s["items"], s["keys"], s["heads"], s["width"]
    queries = s["queries"] or keys

    def rows(count, leaf=True):
        return normal(items, count, heads, width, dtype=dtype, leaf=leaf)

    def heads_first(attend):
        """(items, rows, heads, width) as a model has them after its projections; the library wants heads in front."""

        def make():
            q, k, v, dout = rows(queries), rows(keys), rows(keys), rows(queries, leaf=False)
            forward = lambda: attend(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
            return Call(forward, (q, k, v), dout)

        return make

    def eager(q, k, v):
        return (q * width**-0.5 @ k.transpose(-1, -2)).softmax(-1) @ v

    def forced(backend):
        def attend(q, k, v):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v)

        return heads_first(attend)

    def packed():
        q, k, v = (normal(items * n, heads, width, dtype=dtype, leaf=True) for n in (queries, keys, keys))
        dout = normal(items * queries, heads, width, dtype=dtype)
        offsets = [torch.arange(items + 1, device=device, dtype=torch.int32) * n for n in (queries, keys)]
        return Call(lambda: varlen_attn(q, k, v, *offsets, queries, keys), (q, k, v), dout)

    yield "eager", None if has_sdpa else heads_first(eager)
    yield "sdpa default", heads_first(F.scaled_dot_product_attention) if has_sdpa else None
    for name, backend in backends.items():
        yield name, forced(backend)
    yield "varlen_attn", packed if varlen_attn and dtype == torch.bfloat16 else None
    yield "flex compiled", heads_first(flex) if flex else None


main(implementations)

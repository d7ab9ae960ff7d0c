"""AdamW with clipping of the global norm: fused where there is a GPU, foreach otherwise."""

import torch
from timing import Call, main, normal, on_gpu


def implementations(case, s, dtype):
    def make(**how):
        def one():
            param = normal(s["parameters"], factor=0.1, leaf=True)
            param.grad = normal(s["parameters"])
            optimizer = torch.optim.AdamW([param], lr=1e-3, **how)

            def call():
                torch.nn.utils.clip_grad_norm_([param], 1.0)
                optimizer.step()

            return Call(call=call)

        return one

    yield "AdamW fused", make(fused=True) if on_gpu else None
    yield "AdamW foreach", make(foreach=True)


main(implementations)

"""LoRA: separate products eager and compiled, peft where it is installed, and the bare product without an adapter (cuBLAS on a GPU)."""

import torch
import torch.nn.functional as F
from timing import Call, compiled, device, main, normal

try:
    from peft import LoraConfig, inject_adapter_in_model
except ImportError:
    LoraConfig = None


def separate(x, weight, a, b):
    return torch.addmm(F.linear(x, weight), F.linear(x, a), b.t(), alpha=2.0)


separate_compiled = compiled(separate)


def implementations(case, s, dtype):
    rows, inputs, outputs, rank = s["rows"], s["inputs"], s["outputs"], s["rank"]

    def tensors():
        x, dout = normal(rows, inputs, dtype=dtype, leaf=True), normal(rows, outputs, dtype=dtype)
        weight = normal(outputs, inputs, dtype=dtype, factor=inputs**-0.5)
        a, b = normal(rank, inputs, dtype=dtype, factor=inputs**-0.5, leaf=True), normal(outputs, rank, dtype=dtype, factor=0.1, leaf=True)
        return x, weight, a, b, dout

    def with_function(function):
        def make():
            x, weight, a, b, dout = tensors()
            return Call(lambda: function(x, weight, a, b), (x, a, b), dout)

        return make

    def bare():
        x, weight, _, _, dout = tensors()
        return Call(lambda: F.linear(x, weight), (x,), dout)

    def peft():
        x, dout = normal(rows, inputs, dtype=dtype, leaf=True), normal(rows, outputs, dtype=dtype)
        model = torch.nn.Sequential(torch.nn.Linear(inputs, outputs, bias=False, device=device, dtype=dtype))
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["0"], lora_dropout=0.0, init_lora_weights=False)
        # adapters in the dtype of the layer: peft makes them float32 unless told not to
        model = inject_adapter_in_model(config, model).to(device=device, dtype=dtype)
        leaves = (x, *(p for p in model.parameters() if p.requires_grad))
        return Call(lambda: model(x), leaves, dout)

    yield "eager", with_function(separate)
    yield "compiled", with_function(separate_compiled) if separate_compiled else None
    yield "bare linear", bare
    yield "peft", peft if LoraConfig else None


main(implementations)

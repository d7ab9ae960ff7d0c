"""Writes a small adapter in PEFT's layout beside itself, with struct and json alone: what peft.test.ts reads.

Layers: blocks.0.attention.query and .value of an encoder 8 wide; A (2, 8), B (8, 2), values k / 64, exact in float32.
"""
import json
import os
import struct

here = os.path.dirname(os.path.abspath(__file__))
rank = 2
tensors = {}
for number, layer in enumerate(["query", "value"]):
    base = f"base_model.model.blocks.0.attention.{layer}"
    tensors[f"{base}.lora_A.weight"] = ([rank, 8], [((7 * k + 3 * number) % 31 - 15) / 64 for k in range(rank * 8)])
    tensors[f"{base}.lora_B.weight"] = ([8, rank], [((5 * k + 11 * number) % 29 - 14) / 64 for k in range(8 * rank)])

header = {"__metadata__": {"format": "pt"}}
data = b""
for name in sorted(tensors):
    shape, values = tensors[name]
    packed = struct.pack(f"<{len(values)}f", *values)
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(packed)]}
    data += packed
text = json.dumps(header, separators=(",", ":")).encode()
text += b" " * (-len(text) % 8)
with open(os.path.join(here, "adapter_model.safetensors"), "wb") as file:
    file.write(struct.pack("<Q", len(text)) + text + data)

config = {
    "alpha_pattern": {},
    "auto_mapping": {"base_model_class": "TextEncoder", "parent_library": "\u00e9"},
    "base_model_name_or_path": "tiny",
    "bias": "none",
    "corda_config": None,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 16,
    "lora_bias": False,
    "lora_dropout": 0.0,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "r": rank,
    "rank_pattern": {},
    "revision": None,
    "target_modules": ["value", "query"],
    "target_parameters": None,
    "task_type": None,
    "trainable_token_indices": None,
    "use_dora": False,
    "use_rslora": False,
}
with open(os.path.join(here, "adapter_config.json"), "w") as file:
    file.write(json.dumps(config, indent=2, sort_keys=True))

"""Writes tiny random checkpoints of BERT, RoBERTa, ViT, CLIP and SigLIP and what they must compute to ts/test/golden/encoders/.

The reference below is plain PyTorch, written from the published definitions of these models and the meaning of their config.json keys. It is
NOT the transformers library, which was not at hand: a misreading that both sides share would go unnoticed here. Needs PyTorch; run by hand,
results are committed:

    python3 scripts/golden_encoders.py

Each folder holds config.json, the tensors as safetensors (the format is written by hand here), for pictures preprocessor_config.json, and
expected.json: inputs, last hidden state and pooled output of every text or picture. Everything is computed in float64 from the stored values.
"""

import json
import math
import struct
from pathlib import Path

import torch
import torch.nn.functional as F

HERE = Path(__file__).resolve().parent.parent / "ts" / "test" / "golden" / "encoders"
WIDTH, HEADS, LAYERS, FFN, VOCABULARY = 32, 4, 2, 48, 60
SIZE, PATCH = 16, 8


# ---- files

def stored(x, dtype):
    """Bytes of a tensor as F32, F16 or BF16, and the values that they stand for."""
    kind = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    rounded = x.to(torch.float32).to(kind).contiguous()
    raw = rounded.view(torch.int16).numpy().tobytes() if dtype != "F32" else rounded.numpy().tobytes()
    return raw, rounded.to(torch.float64)


def write_safetensors(path, entries):
    header, at, parts = {}, 0, []
    for name, (dtype, shape, raw) in entries.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        parts.append(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


class Folder:
    """Draws tensors by their name in the file and remembers them; `get` gives the values as stored."""

    def __init__(self, name, dtype="F32", prefix="", old_norms=False, shards=1):
        self.path, self.dtype, self.prefix, self.old_norms, self.shards = HERE / name, dtype, prefix, old_norms, shards
        self.generator = torch.Generator().manual_seed(sum(map(ord, name)))
        self.entries, self.values = {}, {}

    def spelled(self, name):
        if self.old_norms:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        return self.prefix + name

    def get(self, name, *shape, around=0.0, std=0.3):
        if name not in self.values:
            x = around + std * torch.randn(*shape, generator=self.generator, dtype=torch.float64)
            raw, self.values[name] = stored(x, self.dtype)
            self.entries[self.spelled(name)] = (self.dtype, shape, raw)
        return self.values[name]

    def extra(self, name, dtype, shape, raw):
        """A tensor that no encoder reads; `name` as it stands in the file."""
        self.entries[name] = (dtype, shape, raw)

    def linear(self, x, name, out, bias=True):
        weight = self.get(name + ".weight", out, x.shape[-1], std=1.5 / math.sqrt(x.shape[-1]))
        return x @ weight.T + (self.get(name + ".bias", out) if bias else 0)

    def norm(self, x, name, eps):
        width = x.shape[-1]
        return F.layer_norm(x, (width,), self.get(name + ".weight", width, around=1.0, std=0.1), self.get(name + ".bias", width, std=0.1), eps)

    def write(self, config, expected, preprocessor=None):
        self.path.mkdir(parents=True, exist_ok=True)
        for old in self.path.glob("*"):
            old.unlink()
        (self.path / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        (self.path / "expected.json").write_text(json.dumps(expected) + "\n")
        if preprocessor is not None:
            (self.path / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1) + "\n")
        if self.shards == 1:
            write_safetensors(self.path / "model.safetensors", self.entries)
            return
        names, where = list(self.entries), {}
        for i in range(self.shards):
            file = f"model-{i + 1:05}-of-{self.shards:05}.safetensors"
            part = names[i::self.shards]
            write_safetensors(self.path / file, {name: self.entries[name] for name in part})
            where.update({name: file for name in part})
        index = {"metadata": {"total_size": sum(len(raw) for _, _, raw in self.entries.values())}, "weight_map": where}
        (self.path / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


# ---- parts of the models; x is one sequence (T, W)

ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_pytorch_tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


def attend(q, k, v, causal=False):
    split = lambda x: x.view(x.shape[0], HEADS, -1).transpose(0, 1)
    scores = split(q) @ split(k).transpose(1, 2) / math.sqrt(q.shape[-1] // HEADS)
    if causal:
        scores = scores + torch.full(scores.shape[-2:], -math.inf, dtype=torch.float64).triu(1)
    return (scores.softmax(-1) @ split(v)).transpose(0, 1).reshape(q.shape[0], -1)


def rounded(x):
    return [round(value, 7) for value in x.reshape(-1).tolist()]


# ---- texts

def bert_forward(f, ids, types, config, first_position, pooler):
    eps, act = config["layer_norm_eps"], ACTIVATIONS[config["hidden_act"]]
    words = f.get("embeddings.word_embeddings.weight", VOCABULARY, WIDTH)
    places = f.get("embeddings.position_embeddings.weight", config["max_position_embeddings"], WIDTH)
    kinds = f.get("embeddings.token_type_embeddings.weight", config["type_vocab_size"], WIDTH)
    x = words[ids] + kinds[types] + places[torch.arange(len(ids)) + first_position]
    x = f.norm(x, "embeddings.LayerNorm", eps)
    for i in range(LAYERS):
        at = f"encoder.layer.{i}."
        q, k, v = (f.linear(x, f"{at}attention.self.{name}", WIDTH) for name in ("query", "key", "value"))
        x = f.norm(f.linear(attend(q, k, v), at + "attention.output.dense", WIDTH) + x, at + "attention.output.LayerNorm", eps)
        y = f.linear(act(f.linear(x, at + "intermediate.dense", FFN)), at + "output.dense", WIDTH)
        x = f.norm(y + x, at + "output.LayerNorm", eps)
    return x, torch.tanh(f.linear(x[0], "pooler.dense", WIDTH)) if pooler else x[0]


def clip_blocks(f, x, at, config, causal):
    eps, act = config["layer_norm_eps"], ACTIVATIONS[config["hidden_act"]]
    for i in range(LAYERS):
        block = f"{at}encoder.layers.{i}."
        y = f.norm(x, block + "layer_norm1", eps)
        q, k, v = (f.linear(y, f"{block}self_attn.{name}_proj", WIDTH) for name in "qkv")
        x = x + f.linear(attend(q, k, v, causal), block + "self_attn.out_proj", WIDTH)
        y = f.norm(x, block + "layer_norm2", eps)
        x = x + f.linear(act(f.linear(y, block + "mlp.fc1", FFN)), block + "mlp.fc2", WIDTH)
    return x


def clip_text_forward(f, ids, config, out, prefix):
    words = f.get(prefix + "embeddings.token_embedding.weight", VOCABULARY, WIDTH)
    places = f.get(prefix + "embeddings.position_embedding.weight", config["max_position_embeddings"], WIDTH)
    x = clip_blocks(f, words[ids] + places[: len(ids)], prefix, config, causal=True)
    x = f.norm(x, prefix + "final_layer_norm", config["layer_norm_eps"])
    # eos_token_id 2 stands in old configurations whose texts ended with the largest id
    end = ids.argmax() if config["eos_token_id"] == 2 else (ids == config["eos_token_id"]).int().argmax()
    return x, f.linear(x[end], "text_projection", out, bias=False)


def siglip_text_forward(f, ids, config):
    words = f.get("text_model.embeddings.token_embedding.weight", VOCABULARY, WIDTH)
    places = f.get("text_model.embeddings.position_embedding.weight", config["max_position_embeddings"], WIDTH)
    x = clip_blocks(f, words[ids] + places[: len(ids)], "text_model.", config, causal=False)
    x = f.norm(x, "text_model.final_layer_norm", config["layer_norm_eps"])
    return x, f.linear(x[-1], "text_model.head", config["projection_size"])


def texts(forward, ends=None, types=None):
    """Expected values of four texts. `ends`: the id behind the words of each; `types`: where the second segment begins."""
    generator = torch.Generator().manual_seed(7)
    result = []
    for length in (5, 1, 9, 3):
        ids = torch.randint(5, VOCABULARY - 2, (length,), generator=generator)
        if ends is not None:
            ids = torch.cat([ids, torch.tensor([ends])])
        if length == 3 and ends is not None:
            ids = torch.cat([ids, torch.tensor([9, 8])])  # tokens behind the end
        segment = (torch.arange(len(ids)) >= (types or 10**6)).long()
        hidden, pooled = forward(ids, segment)
        result.append({"ids": ids.tolist(), "types": segment.tolist(), "hidden": rounded(hidden), "pooled": rounded(pooled)})
    return result


# ---- pictures

def pictures(forward, preprocessor):
    generator = torch.Generator().manual_seed(9)
    result = []
    for _ in range(2):
        pixels = torch.randint(0, 256, (SIZE, SIZE, 3), generator=generator)
        mean = torch.tensor(preprocessor["image_mean"], dtype=torch.float64)
        std = torch.tensor(preprocessor["image_std"], dtype=torch.float64)
        x = ((pixels.to(torch.float64) / 255 - mean) / std).permute(2, 0, 1)[None]
        hidden, pooled = forward(x)
        result.append({"pixels": pixels.reshape(-1).tolist(), "hidden": rounded(hidden), "pooled": rounded(pooled)})
    return result


def patches(f, x, name, bias):
    weight = f.get(name + ".weight", WIDTH, 3, PATCH, PATCH, std=0.1)
    out = F.conv2d(x, weight, f.get(name + ".bias", WIDTH) if bias else None, stride=PATCH)
    return out[0].flatten(1).T


def vit_forward(f, x, config, pooler):
    eps, act = config["layer_norm_eps"], ACTIVATIONS[config["hidden_act"]]
    count = (SIZE // PATCH) ** 2
    x = patches(f, x, "embeddings.patch_embeddings.projection", bias=True)
    x = torch.cat([f.get("embeddings.cls_token", 1, 1, WIDTH)[0], x]) + f.get("embeddings.position_embeddings", 1, count + 1, WIDTH)[0]
    for i in range(LAYERS):
        at = f"encoder.layer.{i}."
        y = f.norm(x, at + "layernorm_before", eps)
        q, k, v = (f.linear(y, f"{at}attention.attention.{name}", WIDTH) for name in ("query", "key", "value"))
        x = x + f.linear(attend(q, k, v), at + "attention.output.dense", WIDTH)
        y = f.norm(x, at + "layernorm_after", eps)
        x = x + f.linear(act(f.linear(y, at + "intermediate.dense", FFN)), at + "output.dense", WIDTH)
    x = f.norm(x, "layernorm", eps)
    return x, torch.tanh(f.linear(x[0], "pooler.dense", WIDTH)) if pooler else x[0]


def clip_image_forward(f, x, config, out):
    at, eps = "vision_model.", config["layer_norm_eps"]
    count = (SIZE // PATCH) ** 2
    x = patches(f, x, at + "embeddings.patch_embedding", bias=False)
    x = torch.cat([f.get(at + "embeddings.class_embedding", WIDTH)[None], x])
    x = x + f.get(at + "embeddings.position_embedding.weight", count + 1, WIDTH)
    x = clip_blocks(f, f.norm(x, at + "pre_layrnorm", eps), at, config, causal=False)
    return x, f.linear(f.norm(x[0], at + "post_layernorm", eps), "visual_projection", out, bias=False)


def siglip_image_forward(f, x, config):
    at, eps, act = "vision_model.", config["layer_norm_eps"], ACTIVATIONS[config["hidden_act"]]
    count = (SIZE // PATCH) ** 2
    x = patches(f, x, at + "embeddings.patch_embedding", bias=True)
    x = x + f.get(at + "embeddings.position_embedding.weight", count, WIDTH)
    x = f.norm(clip_blocks(f, x, at, config, causal=False), at + "post_layernorm", eps)
    head = at + "head."
    probe = f.get(head + "probe", 1, 1, WIDTH)[0]
    joint = f.get(head + "attention.in_proj_weight", 3 * WIDTH, WIDTH)
    bias = f.get(head + "attention.in_proj_bias", 3 * WIDTH)
    q, k, v = (source @ joint[i * WIDTH:(i + 1) * WIDTH].T + bias[i * WIDTH:(i + 1) * WIDTH] for i, source in enumerate((probe, x, x)))
    y = f.linear(attend(q, k, v), head + "attention.out_proj", WIDTH)
    z = f.norm(y, head + "layernorm", eps)
    return x, (y + f.linear(act(f.linear(z, head + "mlp.fc1", FFN)), head + "mlp.fc2", WIDTH))[0]


# ---- folders

SIZES = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": FFN}
PICTURE = {"image_size": SIZE, "patch_size": PATCH, "num_channels": 3}
TWO_BYTES = struct.pack("<2q", 0, 1)


def bert():
    config = {"model_type": "bert", "vocab_size": VOCABULARY, **SIZES, "hidden_act": "gelu", "max_position_embeddings": 16,
              "type_vocab_size": 2, "layer_norm_eps": 1e-12, "position_embedding_type": "absolute", "hidden_dropout_prob": 0.1}
    f = Folder("bert")
    expected = {"texts": texts(lambda ids, types: bert_forward(f, ids, types, config, 0, True), types=2)}
    f.extra("embeddings.position_ids", "I64", (1, 2), TWO_BYTES)
    f.write(config, expected)
    # as BertForPreTraining saves it: a prefix, gamma and beta, a head of another task, no pooler, two files, bfloat16
    f = Folder("bert_prefixed", dtype="BF16", prefix="bert.", old_norms=True, shards=2)
    expected = {"texts": texts(lambda ids, types: bert_forward(f, ids, types, config, 0, False), types=2)}
    f.extra("cls.predictions.bias", "F32", (2,), struct.pack("<2f", 0, 1))
    f.write(config, expected)


def roberta():
    config = {"model_type": "roberta", "vocab_size": VOCABULARY, **SIZES, "hidden_act": "gelu", "max_position_embeddings": 18,
              "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1}
    f = Folder("roberta", dtype="F16", prefix="roberta.")
    f.write(config, {"texts": texts(lambda ids, types: bert_forward(f, ids, types, config, 2, True))})


def vit():
    config = {"model_type": "vit", **SIZES, **PICTURE, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "qkv_bias": True}
    preprocessor = {"do_resize": True, "size": {"height": SIZE, "width": SIZE}, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    f = Folder("vit", prefix="vit.")
    f.write(config, {"pictures": pictures(lambda x: vit_forward(f, x, config, True), preprocessor)}, preprocessor)


def clip():
    out, end = 24, VOCABULARY - 1
    text = {"vocab_size": VOCABULARY, **SIZES, "hidden_act": "quick_gelu", "max_position_embeddings": 12, "layer_norm_eps": 1e-5,
            "eos_token_id": end - 1}
    image = {**SIZES, **PICTURE, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    preprocessor = {"do_resize": True, "size": {"shortest_edge": SIZE}, "do_center_crop": True, "crop_size": {"height": SIZE, "width": SIZE},
                    "do_normalize": True, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    f = Folder("clip", dtype="BF16")
    expected = {
        "texts": texts(lambda ids, _: clip_text_forward(f, ids, text, out, "text_model."), ends=end - 1),
        "pictures": pictures(lambda x: clip_image_forward(f, x, image, out), preprocessor),
    }
    f.extra("logit_scale", "F32", (), struct.pack("<f", 2.6592))
    f.extra("text_model.embeddings.position_ids", "I64", (1, 2), TWO_BYTES)
    f.write({"model_type": "clip", "projection_dim": out, "text_config": text, "vision_config": image}, expected, preprocessor)
    # a text tower alone, without a prefix, its end of text given by the old rule, erf-gelu
    config = {"model_type": "clip_text_model", **text, "hidden_act": "gelu", "eos_token_id": 2, "projection_dim": out}
    g = Folder("clip_text", dtype="F16")
    g.write(config, {"texts": texts(lambda ids, _: clip_text_forward(g, ids, config, out, ""), ends=end)})


def siglip():
    act = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
    text = {"model_type": "siglip_text_model", "vocab_size": VOCABULARY, **SIZES, **act, "max_position_embeddings": 12, "projection_size": 24}
    image = {"model_type": "siglip_vision_model", **SIZES, **PICTURE, **act}
    preprocessor = {"do_resize": True, "size": {"height": SIZE, "width": SIZE}, "rescale_factor": 1 / 255, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    f = Folder("siglip", dtype="BF16")
    expected = {
        "texts": texts(lambda ids, _: siglip_text_forward(f, ids, text), ends=1),
        "pictures": pictures(lambda x: siglip_image_forward(f, x, image), preprocessor),
    }
    for name in ("logit_scale", "logit_bias"):
        f.extra(name, "F32", (1,), struct.pack("<f", 1))
    f.write({"model_type": "siglip", "text_config": text, "vision_config": image}, expected, preprocessor)


if __name__ == "__main__":
    for make in (bert, roberta, vit, clip, siglip):
        make()

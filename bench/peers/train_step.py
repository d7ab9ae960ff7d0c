"""The step of bench/train_step.bench.ts in PyTorch, from the same weights on the same batches. The protocol is in bench/measure.ts.

Written as one would write it there: padded sequences with masks, nn.MultiheadAttention, sparse embedding gradients with SparseAdam for the
id tables and AdamW for the rest, clip_grad_norm_. Batches are padded and on tensors before the clock starts. `check` is the loss of the
first batch without dropout, before any update.
"""

import json
import os
import sys
import time

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError:
    sys.exit("no torch")

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def pad(values, offsets, length):
    """(n, length) with zeros behind each row, and where they are."""
    counts = np.diff(offsets)
    absent = np.arange(length)[None, :] >= counts[:, None]
    out = np.zeros((len(counts), length), dtype=np.int64)
    out[~absent] = values
    return torch.from_numpy(out), torch.from_numpy(absent)


class Batch:
    def __init__(self, get):
        items = torch.from_numpy(get("items/rows").astype(np.int64))
        longest = lambda offsets: int(np.diff(offsets).max())
        index = lambda name: torch.from_numpy(get(name).astype(np.int64))

        def text(path):
            offsets = get(f"{path}/offsets")
            length = longest(offsets)
            tokens, absent = pad(get(f"{path}/tokens"), offsets, length)
            return tokens, pad(get(f"{path}/positions"), offsets, length)[0], pad(get(f"{path}/types"), offsets, length)[0], absent

        self.item_rows, self.item_index = items, index("items/index")
        self.item_text, self.query_text, self.query_index = text("items/text"), text("queries/text"), index("queries/index")
        n = len(items)
        pixels = get("items/image/pixels")
        size = int((pixels.size // (3 * n)) ** 0.5)
        self.pixels = torch.from_numpy(pixels.reshape(n, size, size, 3).copy())
        self.picture = torch.from_numpy(get("items/image/present").astype(bool))
        self.ids = {name: index(f"categorical/{name}") for name in ("user_id", "item_id", "query_id")}
        self.labels = torch.from_numpy(get("labels/click").astype(np.float32))
        self.session = index("session")
        offsets = get("sequences/history/offsets")
        length = longest(offsets)
        self.id_history, self.id_history_absent = pad(get("sequences/history/values"), offsets, length)
        offsets = get("history/offsets")
        self.history, self.history_absent = pad(get("history/values"), offsets, length)


def gelu_mlp(x, up, down):
    return down(F.gelu(up(x)))


class Block(nn.Module):
    """Pre-norm; `only` keeps the first rows of the result, as a last layer needs them."""

    def __init__(self, width, heads, ffn):
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.up, self.down = nn.Linear(width, ffn), nn.Linear(ffn, width)

    def forward(self, x, absent=None, only=None):
        y = self.attention_norm(x)
        x = x if only is None else x[:, :only]
        x = x + self.attention(y if only is None else y[:, :only], y, y, key_padding_mask=absent, need_weights=False)[0]
        return x + gelu_mlp(self.ffn_norm(x), self.up, self.down)


class TextEncoder(nn.Module):
    def __init__(self, sizes, width, heads, ffn, only=None):
        super().__init__()
        self.token, self.position, self.field = (nn.Embedding(size, width) for size in sizes)
        self.block, self.norm, self.only = Block(width, heads, ffn), nn.LayerNorm(width), only

    def forward(self, tokens, positions, types, absent):
        x = self.token(tokens) + self.position(positions) + self.field(types)
        return self.norm(self.block(x, absent, self.only))


class Em3(nn.Module):
    def __init__(self, config, state):
        super().__init__()
        model = config["model"]
        encoder, image, fusion = model["encoder"], model["encoder"]["image"], model["fusion"]
        width, heads = fusion["width"], fusion["heads"]
        rows = lambda name: state[name].shape[0]
        tables = [f"features.tables.{name}.table" for name in ("user_id", "item_id", "query_id")]
        self.user, self.item, self.query_id = (nn.Embedding(*state[name].shape, sparse=True) for name in tables)
        sizes = lambda at: [rows(f"content.{at}.{kind}.table") for kind in ("token", "position", "type")]
        self.text = TextEncoder(sizes("text"), encoder["width"], encoder["heads"], encoder["ffn"])
        self.query = TextEncoder(sizes("query"), encoder["width"], encoder["heads"], encoder["ffn"], only=1)
        self.patch = nn.Conv2d(3, image["width"], image["patch"], stride=image["patch"])
        self.position = nn.Parameter(torch.zeros(*state["content.image.position"].shape))
        self.image_block, self.image_norm = Block(image["width"], image["heads"], image["ffn"]), nn.LayerNorm(image["width"])
        self.queries = nn.Parameter(torch.zeros(fusion["queries"], width))
        self.absent_image, self.absent_text = nn.Parameter(torch.zeros(1, width)), nn.Parameter(torch.zeros(1, width))
        self.project_image, self.project_text = nn.Linear(image["width"], width), nn.Linear(encoder["width"], width)
        self.fusion_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.fusion_norm, self.fusion_ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fusion_up, self.fusion_down = nn.Linear(width, fusion["ffn"]), nn.Linear(fusion["ffn"], width)
        self.last = nn.Linear(fusion["queries"] * width, width)
        hidden, inputs = model["mlp"], state["ranker.mlp.layers.0.weight"].shape[1]
        drop = lambda: nn.Dropout(model["dropout"])
        self.mlp = nn.Sequential(nn.Linear(inputs, hidden[0]), nn.ReLU(), drop(), nn.Linear(hidden[0], hidden[1]), nn.ReLU(), drop(),
                                 nn.Linear(hidden[1], 1))
        self.register_buffer("table", torch.zeros(*state["content.table.rows"].shape))
        self.register_buffer("stored", torch.zeros(rows("content.table.rows"), dtype=torch.bool))
        self.history_len, self.sqdc = model["history_len"], model["sqdc"]
        self.take(state)

    def take(self, state):
        """The weights of the other program."""
        here = dict(self.named_parameters())
        pairs = {"user.weight": "features.tables.user_id.table", "item.weight": "features.tables.item_id.table",
                 "query_id.weight": "features.tables.query_id.table", "patch.weight": "content.image.weight",
                 "patch.bias": "content.image.bias", "position": "content.image.position", "queries": "content.fusion.query",
                 "absent_image": "content.fusion.absent.image", "absent_text": "content.fusion.absent.text"}
        modules = {"project_image": "fusion.project.image", "project_text": "fusion.project.text", "fusion_norm": "fusion.layers.0.norm",
                   "fusion_ffn_norm": "fusion.layers.0.ffnNorm", "fusion_up": "fusion.layers.0.up",
                   "fusion_down": "fusion.layers.0.down", "last": "fusion.last", "image_norm": "image.norm"}
        attentions = {"fusion_attention": "fusion.layers.0.attention", "image_block.attention": "image.blocks.0.attention"}
        blocks = {"image_block": "image.blocks.0"}
        for name in ("text", "query"):
            blocks[f"{name}.block"] = f"{name}.blocks.0"
            attentions[f"{name}.block.attention"] = f"{name}.blocks.0.attention"
            modules[f"{name}.norm"] = f"{name}.norm"
            for part, kind in (("token", "token"), ("position", "position"), ("field", "type")):
                pairs[f"{name}.{part}.weight"] = f"content.{name}.{kind}.table"
        for at, there in blocks.items():
            modules |= {f"{at}.attention_norm": f"{there}.attentionNorm", f"{at}.ffn_norm": f"{there}.ffnNorm",
                        f"{at}.up": f"{there}.up", f"{at}.down": f"{there}.down"}
        for at, there in attentions.items():
            modules[f"{at}.out_proj"] = f"{there}.out"
        for at, there in modules.items():
            for kind in ("weight", "bias"):
                pairs[f"{at}.{kind}"] = f"content.{there}.{kind}"
        for i, layer in ((0, "layers.0"), (3, "layers.1"), (6, "last")):
            for kind in ("weight", "bias"):
                pairs[f"mlp.{i}.{kind}"] = f"ranker.mlp.{layer}.{kind}"
        with torch.no_grad():
            for at, there in attentions.items():
                for kind in ("weight", "bias"):
                    parts = [state[f"content.{there}.{part}.{kind}"] for part in ("query", "key", "value")]
                    here.pop(f"{at}.in_proj_{kind}").copy_(torch.cat(parts))
            for name, there in pairs.items():
                here.pop(name).view(-1).copy_(state[there].view(-1))
            self.table.copy_(state["content.table.rows"])
            self.stored.copy_(state["content.table.steps"] >= 0)
        assert not here, f"weights without a value: {sorted(here)}"

    def encode(self, b):
        n = len(b.item_rows)
        x = self.patch(b.pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).flatten(2).transpose(1, 2) + self.position
        image = self.project_image(self.image_norm(self.image_block(x)))
        tokens, positions, types, absent = b.item_text
        # a text without tokens attends to one row, and the learned token of a missing text takes its place
        missing = absent.all(1)
        absent = torch.cat([absent[:, :1] & ~missing[:, None], absent[:, 1:]], 1)
        text = self.project_text(self.text(tokens, positions, types, absent))
        text = torch.cat([torch.where(missing[:, None, None], self.absent_text, text[:, :1]), text[:, 1:]], 1)
        image = torch.cat([torch.where(b.picture[:, None, None], image[:, :1], self.absent_image), image[:, 1:]], 1)
        no_patch = (~b.picture)[:, None].expand(n, image.shape[1]).clone()
        no_patch[:, 0] = False
        queries = self.queries.expand(n, -1, -1)
        joint = torch.cat([queries, image, text], 1)
        hidden = torch.cat([torch.zeros(n, queries.shape[1], dtype=torch.bool), no_patch, absent], 1)
        x = self.fusion_norm(queries + self.fusion_attention(queries, joint, joint, key_padding_mask=hidden, need_weights=False)[0])
        x = self.fusion_ffn_norm(x + gelu_mlp(x, self.fusion_up, self.fusion_down))
        return self.last(x.flatten(1))

    @staticmethod
    def pool(target, rows, absent):
        """Attention of one target over its history; zero without rows."""
        scores = (rows @ target[:, :, None]).squeeze(2) / target.shape[1] ** 0.5
        weights = torch.softmax(scores.masked_fill(absent, -1e30), 1).masked_fill(absent, 0)
        return (weights[:, None] @ rows).squeeze(1)

    def forward(self, b):
        encoded = self.encode(b)
        target = encoded[b.item_index]
        query = self.query(*b.query_text)[:, 0][b.query_index]
        user, item = self.user(b.ids["user_id"]), self.item(b.ids["item_id"])
        with torch.no_grad():
            # reads of this step see what it has encoded
            table, stored = self.table.clone(), self.stored.clone()
            table[b.item_rows], stored[b.item_rows] = encoded.detach().to(table.dtype), True
            rows = table[b.history]
            absent = b.history_absent | ~stored[b.history]
        interest = self.pool(target, rows, absent)
        cosines = F.cosine_similarity(target[:, None], rows, dim=2).masked_fill(absent, 0)
        count = cosines.shape[1]
        # the padding of a short history goes behind its values
        ordered = cosines.masked_fill(b.history_absent, -torch.inf).sort(1, descending=True).values
        ordered = ordered.masked_fill(ordered == -torch.inf, 0)
        cosines, ordered = (F.pad(x, (0, self.history_len - count)) for x in (cosines, ordered))
        ids = self.pool(item, self.item(b.id_history), b.id_history_absent)
        flags = torch.stack([(~b.item_text[3].all(1)).float(), b.picture.float()], 1)[b.item_index]
        x = torch.cat([user, item, self.query_id(b.ids["query_id"]), target, flags, query, query * target, user * target,
                       target * interest, cosines, ordered, ids, interest], 1)
        loss = F.binary_cross_entropy_with_logits(self.mlp(x).squeeze(1), b.labels)
        anchors = b.labels.nonzero().squeeze(1)
        session = b.session[anchors]
        same = (session[:, None] == session) & ~torch.eye(len(anchors), dtype=torch.bool)
        scores = self.sqdc["scale"] * F.normalize(query[anchors]) @ F.normalize(target[anchors]).T
        contrast = F.cross_entropy(scores.masked_fill(same, -torch.inf), torch.arange(len(anchors)))
        return loss + self.sqdc["weight"] * contrast, encoded.detach()


def load(folder):
    with open(os.path.join(folder, "arrays.json")) as file:
        config = json.load(file)
    data = np.fromfile(os.path.join(folder, "arrays.bin"), dtype=np.uint8)

    def array(entry):
        count = int(np.prod(entry["shape"]))
        return np.frombuffer(data, entry["dtype"], count, entry["offset"]).reshape(entry["shape"])

    state = {name[6:]: torch.from_numpy(array(e).copy()) for name, e in config["arrays"].items() if name.startswith("state/")}
    batches = [Batch(lambda name, i=i: array(config["arrays"][f"batch/{i}/{name}"])) for i in range(config["batches"])]
    return config, Em3(config, state), batches


class Step:
    def __init__(self, folder):
        config, self.model, self.batches = load(folder)
        train = config["train"]
        rate = train["learning_rate"]
        sparse = [m.weight for m in self.model.modules() if isinstance(m, nn.Embedding) and m.sparse]
        dense = [p for p in self.model.parameters() if all(p is not s for s in sparse)]
        self.clip = train["clip_norm"]
        self.optimizers = [torch.optim.AdamW(dense, rate, weight_decay=train["weight_decay"], foreach=True),
                           torch.optim.SparseAdam(sparse, rate)]
        self.dense, self.at = dense, 0
        self.model.eval()
        with torch.no_grad():
            self.check = self.model(self.batches[0])[0].item()
        self.model.train()

    def __call__(self):
        b = self.batches[self.at % len(self.batches)]
        self.at += 1
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss, encoded = self.model(b)
        loss.backward()
        if self.clip is not None:  # sparse gradients are left out: clip_grad_norm_ does not take them
            nn.utils.clip_grad_norm_(self.dense, self.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        with torch.no_grad():
            self.model.table[b.item_rows], self.model.stored[b.item_rows] = encoded.to(self.model.table.dtype), True
        return loss


name = f"torch {torch.__version__}"
if __name__ == "__main__":
    torch.randn(8, 8) @ torch.randn(8, 8)
    print(json.dumps({"impl": name}), flush=True)
    step = None
    for line in sys.stdin:
        request = json.loads(line)
        if step is None:
            step = Step(request["folder"])
            step()
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(request["calls"]):
            step()
        us = (time.perf_counter() - start) * 1e6 / request["calls"]
        print(json.dumps({"impl": name, "us": us, "cpu_us": (time.process_time() - cpu) * 1e6 / request["calls"], "check": step.check}),
              flush=True)

#!/usr/bin/env python3
"""What a group of 32 or 64 costs: rewrites a checkpoint with every matrix quantised and dequantised, so that the rest of the
pipeline (convert --type f32, quality --exact --ref) measures that alone. Developers' tool; needs numpy.

    group_size.py CHECKPOINT OUT_DIR TYPE GROUP     # TYPE q4 or q8, GROUP 32 or 64
"""
import json, os, shutil, struct, sys
import numpy as np


def quantise(w, bits, group):
    """Symmetric, scales in f16, zero point in the middle; the scale of each group searched for the least squared error."""
    n, k = w.shape
    g = w.reshape(n, k // group, group)
    low, high = (-8, 7) if bits == 4 else (-127, 127)
    extreme = np.take_along_axis(g, np.abs(g).argmax(-1)[..., None], -1)
    best = np.full(g.shape[:2], np.inf)
    out = np.zeros_like(g)
    for r in np.linspace(0.7, 1.15, 24) if bits == 4 else [1.0]:
        for s in ([-extreme / 8 * r, np.abs(extreme) / 7 * r] if bits == 4 else [np.abs(extreme) / 127]):
            s = s.astype(np.float16).astype(np.float32)
            q = np.clip(np.rint(np.divide(g, s, out=np.zeros_like(g), where=s != 0)), low, high)
            error = ((q * s - g) ** 2).sum(-1)
            better = error < best
            best = np.where(better, error, best)
            out = np.where(better[..., None], q * s, out)
    return out.reshape(n, k).astype(np.float32)


def main():
    source, target, kind, group = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    os.makedirs(target, exist_ok=True)
    for name in os.listdir(source):
        if not name.endswith(".safetensors"):
            shutil.copy(os.path.join(source, name), target)
    raw = open(os.path.join(source, "model.safetensors"), "rb").read()
    n, = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + n])
    header.pop("__metadata__", None)
    new, data = {}, b""
    for name, t in header.items():
        a, b = t["data_offsets"]
        assert t["dtype"] == "BF16"
        w = (np.frombuffer(raw[8 + n + a:8 + n + b], np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(t["shape"])
        if w.ndim == 2:
            w = quantise(w, int(kind[1]), group)
        blob = w.tobytes()
        new[name] = dict(dtype="F32", shape=t["shape"], data_offsets=[len(data), len(data) + len(blob)])
        data += blob
    head = json.dumps(new).encode()
    with open(os.path.join(target, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head + data)


main()

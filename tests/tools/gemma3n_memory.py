#!/usr/bin/env python3
"""Runs a converted Gemma 3n file (make_gemma3n.py makes a checkpoint with per-layer embeddings of the published size) and shows
how much of it is resident: the most of the run, pages of the mapped file included, against what `run --plan` said before. Status 1
if it is more than the weights without the tables that are only looked up, plus the cache, plus 5 %.

    tests/tools/make_gemma3n.py /tmp/e2b && ./convert /tmp/e2b -o /tmp/e2b.bin && tests/tools/gemma3n_memory.py /tmp/e2b.bin
"""
import argparse
import random
import re
import subprocess
import threading
import time


def planned(run, model, ctx):
    text = subprocess.run([run, model, "--plan", "--ctx", str(ctx)], check=True, capture_output=True, text=True).stdout
    print(text)
    return {m[1]: float(m[2]) for m in re.finditer(r"^(\w+) +([\d.]+) MB", text, re.M)}


def watch(pid, most):
    """The process's own high-water marks, in MB: the kernel keeps VmHWM; RssFile is the largest that was seen."""
    while True:
        try:
            status = open(f"/proc/{pid}/status").read()
        except OSError:
            return
        for key in ("VmHWM", "RssFile", "RssAnon"):
            m = re.search(rf"^{key}:\s+(\d+) kB", status, re.M)
            if m:
                most[key] = max(most.get(key, 0), int(m[1]) * 1024 / 1e6)
        time.sleep(0.02)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("model")
    a.add_argument("--run", default="./run")
    a.add_argument("--prompt", type=int, default=512)
    a.add_argument("-n", type=int, default=64)
    a.add_argument("--vocab", type=int, default=262144)
    a.add_argument("--ctx", type=int, default=1024)
    o = a.parse_args()
    plan = planned(o.run, o.model, o.ctx)
    draw = random.Random(7)
    ids = " ".join(str(draw.randrange(o.vocab)) for _ in range(o.prompt))
    p = subprocess.Popen([o.run, o.model, "--ids", ids, "-n", str(o.n), "--temp", "0", "--ignore-eos", "--ctx", str(o.ctx), "--print-ids"],
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    most = {}
    watcher = threading.Thread(target=watch, args=(p.pid, most))
    watcher.start()
    said = p.stderr.read()
    rc = p.wait()
    watcher.join()
    print(said.strip())
    if rc:
        raise SystemExit(f"run failed with status {rc}")
    rest = plan["weights"] - plan.get("lookups", 0)
    limit = 1.05 * (rest + plan["cache"])
    print(f"weights {plan['weights']:.1f} MB, of which looked up only {plan.get('lookups', 0):.1f} MB; the rest {rest:.1f} MB, "
          f"cache {plan['cache']:.1f} MB, limit (+5 %) {limit:.1f} MB, planned peak {plan['peak']:.1f} MB")
    print(", ".join(f"{k} {v:.1f} MB" for k, v in most.items()), f"({o.prompt} + {o.n} tokens)")
    if most["VmHWM"] > limit:
        raise SystemExit("more than the limit")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""./serve with everything on at once, under requests of all kinds by many clients, some of whom go away: a developers' check.

    tests/tools/mixed_load.py SERVE MODEL.bin [ADAPTED.bin ADAPTER.lora] [--draft SMALL.bin] [--encoders T5.bin BERT.bin ...] [--seconds 30] [--clients 24] [--malloc-fails N]

Fails if a reply has a status that nobody asked for (500 above all), a stream breaks off, or the server does not end with 0. With --malloc-fails
one allocation in N fails (fail_malloc.c): then nothing may crash, and what lacked memory says 503. Sanitizers report as ever: SERVE may be build/asan/serve."""
import argparse, json, os, random, re, shutil, signal, socket, subprocess, sys, tempfile, threading, time

here = os.path.dirname(os.path.abspath(__file__))
ap = argparse.ArgumentParser()
ap.add_argument("serve")
ap.add_argument("models", nargs="+")
ap.add_argument("--draft", help="a smaller model of MODEL's tokens")
ap.add_argument("--encoders", nargs="*", default=[], help="models asked by ids alone: T5 for texts and embeddings, BERT for embeddings")
ap.add_argument("--seconds", type=float, default=30)
ap.add_argument("--clients", type=int, default=24)
ap.add_argument("--malloc-fails", type=int, default=0)
o = ap.parse_args()
work = tempfile.mkdtemp()
bins = [m for m in o.models if not m.endswith(".lora")]
for m in o.models + o.encoders + ([o.draft] if o.draft else []): shutil.copy(m, work)
name = [os.path.basename(m)[:-4] for m in bins]
lora = [os.path.basename(m)[:-5] for m in o.models if m.endswith(".lora")]
encoders = [os.path.basename(m)[:-4] for m in o.encoders]
counts, bad, lock = {}, [], threading.Lock()
SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 8}, "n": {"type": "integer"}}, "required": ["a", "n"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]

def start():
    env = dict(os.environ)
    if o.malloc_fails:
        subprocess.check_call([os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", os.path.join(here, "fail_malloc.c"), "-o", work + "/fail.so", "-ldl"])
        env.update(LD_PRELOAD=work + "/fail.so", FAIL_EVERY=str(o.malloc_fails), FAIL_FROM=work + "/on")
    log = open(work + "/log", "w")
    p = subprocess.Popen([o.serve, work, "--port", "0", "--slots", "4", "--ctx", "512", "--kv-dir", work + "/kv", "--kv-disk", "8M", "--trace", work + "/trace", "--response-cache", "1M",
                          "--fallback", "gone=nope," + name[0], "--keep-alive", "2s", "--sse-ping-interval", "1", "--memory", "150M", "--queue", "64", "--drain", "2",
                          "--trust-proxy", "127.0.0.1", "--allow-host", "load.test"] + (["--draft", "%s=%s" % (name[0], os.path.basename(o.draft)[:-4])] if o.draft else []), stderr=log, env=env)
    for _ in range(600):
        found = re.search(r"listening on http://127.0.0.1:(\d+)", open(work + "/log").read())
        if found: return p, int(found.group(1))
        time.sleep(0.05)
    sys.exit("the server did not start: " + open(work + "/log").read())

def make(r):
    ids = lambda n: [r.randint(1, 60) for _ in range(r.randint(1, n))]
    w = " ".join(r.choice(["cat", "dog", "sea", "king", "moon", "tree", "old", "man"]) for _ in range(r.randint(1, 60)))
    st, us, m = r.random() < .6, [{"role": "user", "content": w}], name[0]
    chat, text = "/v1/chat/completions", "/v1/completions"
    kinds = [
        lambda: (chat, {"model": r.choice([m, "gone"]), "messages": us, "max_tokens": r.randint(1, 60), "stream": st, "n": r.randint(1, 3), "seed": r.randint(0, 5), "logprobs": r.random() < .3}),
        lambda: (chat, {"model": m, "messages": us, "max_tokens": 40, "stream": st, "tools": TOOLS, "tool_choice": r.choice(["auto", "none"])}),
        lambda: (chat, {"model": m, "messages": us, "max_tokens": 60, "stream": st, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}}),
        lambda: (chat, {"model": m, "messages": us * 2 + [{"role": "tool", "content": "x"}], "max_tokens": 5, "stream": st, "timeout_ms": r.choice([1, 50, 1000])}),
        lambda: (text, {"model": m, "prompt": [w, w[:20]], "max_tokens": r.randint(0, 40), "stream": st, "echo": r.random() < .4, "logprobs": r.choice([None, 0, 3]), "temperature": 0}),
        lambda: (text, {"model": m, "prompt": w, "max_tokens": r.randint(0, 300), "stream": st, "lookup": True, "temperature": 0, "ignore_eos": True}),
        lambda: (text, {"model": m, "prompt": w, "max_tokens": 20, "grammar": 'root ::= ("a" | "b" [a-z]*)+'}),
        lambda: (text, {"model": m, "prompt": w, "max_tokens": 10, "num_beams": r.choice([2, 3])}),
        lambda: (text, {"model": name[-1], "prompt": ids(50), "max_tokens": 20, "stream": st,
                        "lora": [{"name": lora[0], "scale": r.choice([.5, 1, 2, r.random()])}] if lora else None}),
        lambda: ("/v1/embeddings", {"model": m, "input": [w, w[:9]], "pooling": "mean", "encoding_format": r.choice(["float", "base64"])}),
        lambda: ("/api/embed", {"model": m, "input": [w, w], "pooling": "last"}),
        lambda: ("/api/chat", {"model": m, "messages": us, "stream": st, "options": {"num_predict": r.randint(1, 50)}, "keep_alive": r.choice([0, "5m", -1, 1])}),
        lambda: ("/api/generate", {"model": m, "prompt": r.choice([w, ""]), "stream": st, "format": r.choice([None, "json"]), "options": {"num_predict": 30}, "keep_alive": r.choice([0, "5m"])}),
        lambda: ("/v1/messages", {"model": m, "messages": us, "max_tokens": 30, "stream": st}),
        lambda: ("/v1/responses", {"model": m, "input": w, "max_output_tokens": 30, "stream": st}),
        lambda: ("/completion", {"model": m, "prompt": w, "n_predict": r.randint(1, 100), "stream": st, "n_probs": r.choice([0, 3]), "return_progress": True, "n_cmpl": r.randint(1, 4),
                                 "t_max_predict_ms": r.choice([-1, 20, 5000])}),
        lambda: ("/slots/%d?action=%s" % (r.randint(0, 4), r.choice(["save", "restore", "erase"])), {"model": m, "filename": r.choice(["a", "b"])}),
        lambda: ("/tokenize", {"model": m, "content": w, "with_pieces": True}),
        lambda: ("/apply-template", {"model": m, "messages": us, "tools": TOOLS}),
        lambda: ("/v1/messages/count_tokens", {"model": m, "messages": us}),
    ] + [
        lambda e=e: r.choice([(text, {"model": e, "prompt": [ids(100), ids(10)], "max_tokens": r.randint(1, 20), "stream": st, "num_beams": r.choice([None, None, 2])}),
                              ("/v1/embeddings", {"model": e, "input": [ids(100), ids(20)], "pooling": r.choice(["mean", "first"])})]) for e in encoders * 2
    ] + [lambda p=p: (p, None) for p in ("/metrics", "/slots", "/api/tags", "/api/ps", "/v1/models", "/props", "/health")]
    return r.choice(kinds)()

def ask(port, path, body, r):
    b = json.dumps(body).encode() if body else b""
    with socket.create_connection(("127.0.0.1", port), timeout=300) as s:
        s.sendall(("%s %s HTTP/1.1\r\nHost: load.test\r\nX-Forwarded-For: 10.0.0.%d\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % ("POST" if body else "GET", path, r.randint(1, 4), len(b))).encode() + b)
        if r.random() < .12: return time.sleep(r.random() * .2) or "went away"
        out = b""
        while piece := s.recv(65536): out += piece
    status = out[9:12].decode()
    cut = b"Transfer-Encoding: chunked" in out and not out.endswith(b"0\r\n\r\n")
    allowed = ("200", "400", "404", "503", "504", "507")
    if (status not in allowed or cut) and not (o.malloc_fails and (cut or not status)): bad.append((status, path, str(body)[:150], out[-300:]))
    return "cut" if cut else status or "nothing"

def client(port, seed, until):
    r = random.Random(seed)
    while time.time() < until:
        try: k = ask(port, *make(r), r)
        except OSError as e:
            k = str(e)
            if not o.malloc_fails: bad.append((k, "", "", b""))
        with lock: counts[k] = counts.get(k, 0) + 1

p, port = start()
open(work + "/on", "w").close()
clients = [threading.Thread(target=client, args=(port, i, time.time() + o.seconds)) for i in range(o.clients)]
for c in clients: c.start()
for c in clients: c.join()
alive = p.poll() is None
p.send_signal(signal.SIGTERM)
rc = p.wait(60)
print(dict(sorted(counts.items())), "; the server", "ended with %d" % rc if alive else "DIED: %d" % rc)
for x in bad[:10]: print("BAD", *x)
if not alive or rc or bad: print(open(work + "/log").read()[-2000:], file=sys.stderr)
shutil.rmtree(work)
sys.exit(1 if bad or rc or not alive else 0)

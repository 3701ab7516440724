#!/usr/bin/env python3
"""quern beside llama.cpp, in turns A B A B, in one run on one machine.

    pip install llama-cpp-python                       # builds llama.cpp; README.md beside this file says how
    compare.py MODEL.bin MODEL.gguf [-t 2] [-p 512] [-n 64] [--depth 0] [--batch 1] [--rounds 5]
    compare.py MODEL.bin --peer-json FILE              # figures that were measured before: same threads, or it refuses

Each round starts both programs afresh, one after the other, with the same threads, prompt, steps, depth and batch. The ratio is the median of
the rounds' ratios: a machine that is slow for a while is slow for both. It refuses what does not compare: other threads, prompts, steps, depths.
The weights should have as many bits: q4 (4.25 a weight) beside Q4_0 (4.5), q8 (8.25) beside Q8_0 (8.5).
"""
import argparse, ctypes, json, os, statistics, subprocess, sys, time

SAME = ("threads", "pp", "tg", "depth", "batch")
HERE = os.path.dirname(os.path.abspath(__file__))


def stop(line):
    sys.exit("compare.py: " + line)


def quern(bench, model, work):
    """One round: {"threads", "pp", ..., "pp_speed", "tg_speed"}; a speed is None for work of size 0."""
    command = [bench, model, "--json", "-r", "1", "-t", str(work["threads"]), "-p", str(work["pp"]), "-n", str(work["tg"]),
               "-d", "0" if work["depth"] == 0 else "0,%d" % work["depth"], "-b", str(work["batch"])]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        stop("%s: %s; build it with make, or name it with --bench" % (bench, error.strerror))
    if done.returncode:
        stop("%s: %s" % (bench, done.stderr.strip() or "status %d" % done.returncode))
    return from_quern(json.loads(done.stdout), work)


def from_quern(result, work):
    """What llama_round gives: the prompt at depth 0, the decode steps after `depth` tokens."""
    speed = {(row["test"], row["depth"], row["batch"]): row["tokens_per_s"] for row in result["rows"]}
    return dict(work, threads=result["threads"], pp_speed=speed.get(("pp%d" % work["pp"], 0, 1)),
                tg_speed=speed.get(("tg%d" % work["tg"], work["depth"], work["batch"])))


def llama(model, work):
    """One round of llama.cpp, in a process of its own: its threads spin, and would take the next round's time."""
    command = [sys.executable, os.path.abspath(__file__), "--llama-round", json.dumps(work), model]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        stop("llama.cpp: " + (done.stderr.strip().splitlines() or ["status %d" % done.returncode])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def llama_round(model, work):
    import llama_cpp as L
    silence = L.llama_log_callback(lambda level, text, data: None)
    L.llama_log_set(silence, ctypes.c_void_p(0))
    L.llama_backend_init()
    loaded = L.llama_model_load_from_file(model.encode(), L.llama_model_default_params())
    if not loaded:
        stop("%s: llama.cpp does not load it" % model)
    depth, batch_size = work["depth"], work["batch"]
    params = L.llama_context_default_params()
    params.n_ctx = max(work["pp"], (depth + work["tg"]) * batch_size) + 64
    params.n_batch, params.n_ubatch = max(512, work["pp"], depth), 512
    params.n_threads = params.n_threads_batch = work["threads"]
    params.n_seq_max = batch_size
    ctx = L.llama_init_from_model(loaded, params)
    if not ctx:
        stop("%s: llama.cpp opens no context of %d" % (model, params.n_ctx))
    vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(loaded))
    memory = L.llama_get_memory(ctx)
    batch = L.llama_batch_init(max(work["pp"], depth, batch_size, 32), 0, batch_size)

    def decode(items):  # (token, position, sequence, wants logits)
        batch.n_tokens = len(items)
        for i, (token, pos, seq, logits) in enumerate(items):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, pos, 1, seq, logits
        if L.llama_decode(ctx, batch):
            stop("llama_decode failed")

    def prompt(n, seq=0):
        decode([((i * 7919 + 13) % vocab, i, seq, i == n - 1) for i in range(n)])

    def timed(work_to_do, tokens):
        L.llama_synchronize(ctx)
        start = time.perf_counter()
        work_to_do()
        L.llama_synchronize(ctx)
        return tokens / (time.perf_counter() - start)

    def steps():
        for i in range(work["tg"]):
            decode([((i * 7919 + s) % vocab, depth + i, s, True) for s in range(batch_size)])

    out = dict(work, threads=L.llama_n_threads(ctx), pp_speed=None, tg_speed=None)
    prompt(32)  # buffers and pages are touched outside the clock, as in bench/model
    L.llama_memory_clear(memory, True)
    if work["pp"]:
        out["pp_speed"] = timed(lambda: prompt(work["pp"]), work["pp"])
        L.llama_memory_clear(memory, True)
    if work["tg"]:
        for s in range(batch_size if depth else 0):
            prompt(depth, s)
        out["tg_speed"] = timed(steps, work["tg"] * batch_size)
    print(json.dumps(out))


def from_peer(path):
    """Figures in the form of `--json` of this program, or one line of an earlier llama_bench.py."""
    try:
        with open(path) as f:
            found = json.load(f)
        rounds = found["peer"] if "peer" in found else [found]
        for r in rounds:
            r.setdefault("pp_speed", r.get("pp_median"))
            r.setdefault("tg_speed", r.get("tg_median"))
            if not all(isinstance(r[key], int) for key in SAME):
                raise ValueError("threads, pp, tg, depth and batch are whole numbers")
        return rounds
    except OSError as error:
        stop("%s: %s" % (path, error.strerror))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        stop("%s: not figures of a peer (%s): expected what compare.py --json or llama_bench.py wrote" % (path, error))


def check_same(ours, theirs):
    for key in SAME:
        if ours[key] != theirs[key]:
            stop("these do not compare: quern ran with %s %s, the peer with %s: measure both with the same" % (key, ours[key], theirs[key]))


def line(name, work, ours, theirs, key):
    pairs = [(a[key], b[key]) for a, b in zip(ours, theirs) if a[key] and b[key]]
    if not pairs:
        return None
    ratios = [a / b for a, b in pairs]
    return "%-8s %6d %6d %8d %11.1f %11.1f %8.2f   %.2f to %.2f" % (
        name, work["depth"] if key == "tg_speed" else 0, work["batch"] if key == "tg_speed" else 1, work["threads"],
        statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), statistics.median(ratios), min(ratios), max(ratios))


def report(work, ours, theirs):
    for a, b in zip(ours, theirs):
        check_same(a, b)
    rows = [line("pp%d" % work["pp"], work, ours, theirs, "pp_speed"), line("tg%d" % work["tg"], work, ours, theirs, "tg_speed")]
    rows = [row for row in rows if row]
    if not rows:
        stop("nothing was measured by both: -p and -n are 0, or the peer's figures lack them")
    return "\n".join(["%-8s %6s %6s %8s %11s %11s %8s   %s" % ("test", "depth", "batch", "threads", "quern", "llama.cpp", "ratio", "of the rounds")] + rows)


def arguments():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("model", nargs="?"); a.add_argument("gguf", nargs="?")
    a.add_argument("-t", "--threads", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    a.add_argument("-p", "--n-prompt", type=int, default=512); a.add_argument("-n", "--n-gen", type=int, default=64)
    a.add_argument("-d", "--depth", type=int, default=0); a.add_argument("-b", "--batch", type=int, default=1)
    a.add_argument("--rounds", type=int, default=5)
    a.add_argument("--bench", default=os.path.join(HERE, "..", "model"), help="the program bench/model")
    a.add_argument("--peer-json", metavar="FILE", help="the peer's figures from there instead of measuring it")
    a.add_argument("--json", metavar="FILE", help="also write every round there")
    a.add_argument("--llama-round", metavar="WORK", help=argparse.SUPPRESS)
    return a, a.parse_args()


def main():
    parser, args = arguments()
    if args.llama_round:
        return llama_round(args.model, json.loads(args.llama_round))
    if not args.model or bool(args.gguf) == bool(args.peer_json):
        parser.error("expected MODEL.bin and MODEL.gguf, or MODEL.bin and --peer-json FILE")
    if min(args.threads, args.rounds, args.batch) < 1 or min(args.n_prompt, args.n_gen, args.depth) < 0:
        parser.error("-t, --rounds and -b are at least 1, -p, -n and -d at least 0")
    work = {"threads": args.threads, "pp": args.n_prompt, "tg": args.n_gen, "depth": args.depth, "batch": args.batch}
    ours, theirs = [], []
    if args.peer_json:
        theirs = from_peer(args.peer_json)
        check_same(work, theirs[0])  # before minutes of measuring
        args.rounds = len(theirs)
    else:
        try:
            import llama_cpp  # noqa: F401
        except ImportError:
            stop("llama-cpp-python is not installed: bench/peers/README.md says how, or give figures with --peer-json")
    for i in range(args.rounds):
        print("round %d of %d" % (i + 1, args.rounds), file=sys.stderr)
        ours.append(quern(args.bench, args.model, work))
        if not args.peer_json:
            theirs.append(llama(args.gguf, work))
        check_same(ours[-1], theirs[i])
    print(report(work, ours, theirs))
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"quern": ours, "peer": theirs}, f, indent=1)


if __name__ == "__main__":
    main()

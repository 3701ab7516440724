#!/usr/bin/env python3
"""The server's page in a real browser: a developers' check (make test does without).

    tests/tools/page_test.py [--shots DIR] [--real http://127.0.0.1:8080]     needs chromium, chromedriver and selenium (Debian: chromium-driver python3-selenium)
    tests/tools/page_test.py --seal                                          writes the hashes of script and style into the page's policy, after every change of either

Without --real a small server in this file plays the part: it cuts its streams at odd places, fails in the middle, wants keys, is full."""
import argparse, base64, hashlib, json, os, random, re, sys, tempfile, threading, time, traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tools/serve/page.html")

def seal(text):
    for tag in ("script", "style"):
        inside = re.search("<%s>(.*?)</%s>" % (tag, tag), text, re.S).group(1)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        text = re.sub("%s-src 'sha256-[^']*'" % tag, lambda m: "%s-src 'sha256-%s'" % (tag, digest), text)
    return text

# ---- a server for the page to talk to ----

MARKDOWN = """# A heading

Some *italics*, **bold**, ***both***, `code`, ~~struck~~, a [link](https://example.org/a_(b)) and https://example.org/x. Snake_case_stays, 2 * 3 * 4 too.

1. first
2. second
   - nested **one**
   - nested two

   a paragraph of the item
3. third

> A quote
> of two lines

```c
int main(void) { return 0; } /* <b>not bold</b> */
```

| name | speed |
|------|-------|
| q4 | 23.4 |
| a \\| b | `x` |

---
Grüße, 世界, 🌾 and the end.
"""
XSS = """<img src=x onerror="window.hacked=1"> <script>window.hacked=2</script> [click](javascript:window.hacked=3) [data](data:text/html,<script>window.hacked=4</script>)
[ok](https://example.org/"onmouseover="window.hacked=5) <https://example.org/<script>> ![i](http://127.0.0.1:1/pixel.png) [a](vbscript:x) [b](JaVaScRiPt:window.hacked=6) [c]( javascript:window.hacked=7)

```"><script>window.hacked=8</script>
<img src=x onerror=window.hacked=9>
```
| <img src=x onerror=window.hacked=10> | b |
|---|---|
| <svg onload=window.hacked=11> | [x](java\tscript:alert(1)) |
"""

class Mock(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state = {"asked": [], "key": None, "full": 0, "cancelled": 0, "keys": [], "load": 0}

    def log_message(self, *a): pass

    def reply(self, status, body, kind="application/json", headers=()):
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for k, v in (("Content-Type", kind), ("Content-Length", str(len(data))), *headers): self.send_header(k, v)
        self.end_headers()
        self.wfile.write(data)

    def fail(self, status, code, message, headers=(), **more):
        self.reply(status, {"error": dict({"message": message, "type": "x", "code": code, "param": None, "phase": "parse", "elapsed_ms": 1.5, "request_id": "req-1"}, **more)}, headers=headers)

    def allowed(self):
        self.state["keys"].append(self.headers.get("Authorization"))
        if self.state["key"] and self.headers.get("Authorization") != "Bearer " + self.state["key"]:
            self.fail(401, "invalid_api_key", "an API key is needed: Authorization: Bearer KEY")
            return False
        return True

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/": return self.reply(200, open(PAGE, "rb").read(), "text/html; charset=utf-8", [("Content-Security-Policy", "frame-ancestors 'none'")])
        if path == "/health": return self.reply(200, {"status": "ok"})
        if not self.allowed(): return
        if path == "/v1/models": return self.reply(200, {"object": "list", "data": [{"id": "small"}, {"id": "large-model-with-a-rather-long-name-q4"}]})
        if path == "/props": return self.reply(200, {"default_generation_settings": {"n_ctx": 4096}})
        if path == "/slots":
            busy = [(0, 300, 300, 41), (1, 2000, 700, 0)]
            return self.reply(200, [{"id": i, "n_ctx": 4096 if i < 2 else 0, "is_processing": i < 2, "model": "small" if i < 2 else "", "n_prompt_tokens": busy[i][1] if i < 2 else 0,
                                     "n_prompt_tokens_processed": busy[i][2] if i < 2 else 0, "next_token": [{"n_decoded": busy[i][3] if i < 2 else 0}]} for i in range(8)])
        if path == "/metrics":
            self.state["load"] += random.randint(20, 90)
            return self.reply(200, "# TYPE x counter\nllamacpp:tokens_predicted_total %d\nllamacpp:predicted_tokens_seconds 31.25\nllamacpp:prompt_tokens_seconds 812\nllamacpp:requests_processing 2\n"
                              "llamacpp:requests_deferred 3\ninference_requests_total 128\nquern_time_to_first_token_seconds_bucket{le=\"0.1\"} 50\nquern_time_to_first_token_seconds_bucket{le=\"0.5\"} 90\n"
                              "quern_time_to_first_token_seconds_bucket{le=\"+Inf\"} 100\nmodel_memory_usage_bytes{model=\"small\"} 734003200\n" % self.state["load"], "text/plain; version=0.0.4")
        self.fail(404, "not_found", "there is no path " + path)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed(): return
        self.state["asked"].append(body)
        what = [m for m in body["messages"] if m["role"] == "user"][-1]["content"].split("\n\n")[-1]
        if what == "full":
            self.state["full"] += 1
            if self.state["full"] == 1: return self.fail(503, "queue_full", "512 requests wait already", [("Retry-After", "2"), ("Retry-After-Ms", "1500")])
        if what == "context": return self.fail(400, "context_length_exceeded", "5000 tokens do not fit into 4096", n_prompt_tokens=5000, n_ctx=4096)
        if what == "whole": return self.reply(200, {"model": "small", "choices": [{"message": {"role": "assistant", "content": "in one piece"}, "finish_reason": "stop"}]})
        if what == "proxy": return self.reply(502, "<html><b>Bad gateway</b></html>", "text/html")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try: self.stream(what)
        except (BrokenPipeError, ConnectionResetError):
            self.state["cancelled"] += 1
            self.close_connection = True

    def raw(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def event(self, o): return b"data: " + (o if isinstance(o, bytes) else json.dumps(o, ensure_ascii=False).encode()) + b"\n\n"

    def delta(self, **d): return self.event({"model": "small", "choices": [{"index": 0, "delta": d, "finish_reason": None}], "usage": None})

    def ending(self, finish="stop", ended="eos", total=468, **more):
        return self.event(dict({"model": "small", "choices": [{"index": 0, "delta": {}, "finish_reason": finish, "ended": ended}], "usage": None,
                                "timings": {"first_token_ms": 412.3, "predicted_per_second": 23.44, "queue_ms": 120, "load_ms": 0, "predicted_n": 128}}, **more)) + \
            self.event({"choices": [], "usage": {"prompt_tokens": total - 128, "completion_tokens": 128, "total_tokens": total, "prompt_tokens_details": {"cached_tokens": 200}}}) + self.event(b"[DONE]")

    def odd(self, data, pause=0.0):
        """In pieces of 1 to 9 bytes: inside lines, inside characters, between CR and LF."""
        rng, i = random.Random(7), 0
        while i < len(data):
            n = rng.randint(1, 9)
            self.raw(data[i:i + n])
            i += n
            if pause: time.sleep(pause)

    def stream(self, what):
        texts = {"markdown": MARKDOWN, "xss": XSS}
        if what in texts:
            words = re.findall(r"\S+|\s+", texts[what])
            self.odd((b": a comment\n\n" + self.delta(role="assistant", content="") + b"".join(self.delta(content=w) for w in words) + self.ending()).replace(b"\n", b"\r\n"))
        elif what == "slow":
            for i in range(300):
                self.raw(self.delta(content="word%d " % i))
                time.sleep(0.05)
        elif what == "mute": # nothing for a while
            time.sleep(3)
            self.raw(self.delta(content="at last") + self.ending())
        elif what == "break":
            self.raw(self.delta(content="Half an ans") + self.event({"error": {"message": "the server shuts down", "type": "server_error", "code": "shutting_down", "phase": "decode"}}) + self.event(b"[DONE]"))
        elif what == "cut":
            self.raw(self.delta(content="Half an"))
        elif what == "garbage":
            self.raw(self.event(b'{"choices": [oops'))
        elif what == "long":
            self.raw(self.delta(reasoning_content="Let me think.\nSlowly.") + self.delta(content="Cut here") + self.ending("length", "length", 3900, warnings=["foo: unknown field, ignored"]))
        elif what == "nothing":
            self.raw(self.ending())
        else:
            self.raw(self.delta(content="answer %d to " % len(self.state["asked"])) + self.delta(content=what) + self.ending())
        self.raw(b"")

# ---- the browser ----

class Browser:
    def __init__(self, url, shots):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
        import shutil
        o = webdriver.ChromeOptions()
        for a in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,860", "--hide-scrollbars"): o.add_argument(a)
        o.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
        o.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.downloads = tempfile.mkdtemp()
        o.add_experimental_option("prefs", {"download.default_directory": self.downloads})
        self.d = webdriver.Chrome(service=Service(shutil.which("chromedriver")), options=o)
        self.d.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": self.downloads})
        self.url, self.shots = url, shots

    def js(self, code, *args): return self.d.execute_script(code, *args)
    def wait(self, code, seconds=15, *args):
        end = time.time() + seconds
        while time.time() < end:
            try:
                v = self.js("return " + code, *args)
                if v: return v
            except Exception as e: # the element is not there yet
                v = e
            time.sleep(0.03)
        raise AssertionError("waited %g s for %s, found %r; the last message: %r" % (seconds, code, v, self.last()))
    def last(self): return self.js("return [...document.querySelectorAll('.msg')].at(-1)?.innerText")
    def open(self, clean=True):
        self.d.get(self.url)
        if clean:
            self.js("localStorage.clear(); sessionStorage.clear()")
            self.d.get(self.url)
        self.wait("document.querySelector('#model').value || document.querySelector('#notice').innerText")
    def keys(self, *k):
        from selenium.webdriver import ActionChains
        ActionChains(self.d).send_keys(*k).perform()
    def type(self, text):
        self.js("document.querySelector('#input').focus()")
        self.keys(text)
    def send(self, text, done=True):
        from selenium.webdriver import Keys
        self.type(text)
        self.keys(Keys.ENTER)
        if done: self.done()
    def done(self, seconds=60):
        self.wait("document.querySelector('.msg.model:last-child') && !document.querySelector('.busy') && document.querySelector('#send').textContent == 'Send'", seconds)
    def press(self, text, within="document"):
        self.wait("[...%s.querySelectorAll('button')].some(b => b.textContent == arguments[0] && !b.disabled && b.offsetParent)" % within, 10, text)
        self.js("[...%s.querySelectorAll('button')].filter(b => b.textContent == arguments[0] && b.offsetParent).at(-1).click()" % within, text)
    def size(self, w, h): self.d.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": w, "height": h, "deviceScaleFactor": 1, "mobile": w < 600})
    def scheme(self, name): self.d.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": name}]})
    def shot(self, name):
        if self.shots:
            time.sleep(0.3)
            self.d.save_screenshot(os.path.join(self.shots, name + ".png"))
    def fits(self):
        wide = self.js("return [...document.querySelectorAll('body *')].filter(e => e.offsetParent && e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('pre, .table, .unseen')).map(e => e.tagName + '.' + e.className + '#' + e.id)")
        assert not wide and self.js("return document.documentElement.scrollWidth <= innerWidth"), "wider than the screen: %r" % wide
    def asked(self): return Mock.state["asked"][-1]

def no_errors(b, but=()):
    bad = [x["message"] for x in b.d.get_log("browser") if x["level"] == "SEVERE" and not any(y in x["message"] for y in but)]
    assert not bad, bad

# ---- checks against the mock ----

def test_streaming(b):
    b.open()
    b.send("markdown")
    html = b.js("return document.querySelector('.md').innerHTML")
    text = b.js("return document.querySelector('.md').textContent")
    for piece in ("<h3>A heading</h3>", "<em>italics</em>", "<strong>bold</strong>", "<strong><em>both</em></strong>", "<code>code</code>", "<s>struck</s>", 'href="https://example.org/a_(b)"', ">https://example.org/x</a>.",
                  "Snake_case_stays, 2 * 3 * 4", "<li><p>nested <strong>one</strong></p></li>", "<p>a paragraph of the item</p>", "<blockquote><p>A quote\nof two lines</p></blockquote>", "&lt;b&gt;not bold", "<td>a | b</td>", "<hr>"):
        assert piece in html, (piece, html)
    assert "Grüße, 世界, 🌾 and the end." in text and "\ufffd" not in text
    assert b.js("return document.querySelectorAll('.md > ol > li').length") == 3
    for piece in ("23.4 tokens/s", "first token 412 ms", "queued 120 ms", "128 tokens", "prompt 340 (200 cached)"): assert piece in b.last(), (piece, b.last())
    b.wait("document.querySelector('.stats').innerText.includes('context 468 of 4,096') || document.querySelector('.stats').innerText.includes('context 468 of 4096')")
    assert "(11 %)" in b.js("return document.querySelector('#context').textContent")
    assert b.asked()["stream"] is True and b.asked()["stream_options"] == {"include_usage": True} and "temperature" not in b.asked() and b.asked()["model"] == "small"
    b.shot("desktop-light")
    no_errors(b)

def test_xss(b):
    b.open()
    b.send("xss")
    time.sleep(0.3)
    assert b.js("return window.hacked") is None
    assert b.js("return document.querySelectorAll('.md img, .md script, .md svg, .md [onerror]').length") == 0
    links = b.js("return [...document.querySelectorAll('.md a')].map(a => [a.protocol, a.rel, a.getAttributeNames().join()])")
    assert links and all(p in ("http:", "https:") and "noopener" in r and n == "href,title,target,rel" for p, r, n in links), links
    assert "javascript:window.hacked=3" in b.last()
    b.send("<img src=x onerror='window.hacked=20'>")
    assert b.js("return window.hacked") is None and b.js("return document.querySelectorAll('#chats img, .msg img').length") == 0
    # the policy itself: nothing inline, nothing from elsewhere, no markup from text
    b.js("const s = document.createElement('div'); try { s.innerHTML = '<img src=x onerror=\"window.hacked=30\">'; document.body.append(s); } catch (e) { window.refused = e.name; }")
    b.js("const s = document.createElement('img'); s.src = arguments[0] + 'pixel'; s.onload = s.onerror = () => 0; document.body.append(s); s.remove()", b.url)
    time.sleep(0.2)
    assert b.js("return window.hacked") is None and b.js("return window.refused") == "TypeError"
    log = " ".join(x["message"] for x in b.d.get_log("browser"))
    assert "Content Security Policy" in log or "TrustedHTML" in log, log

def test_stop(b):
    from selenium.webdriver import Keys
    b.open()
    before = Mock.state["cancelled"]
    b.send("slow", done=False)
    b.wait("document.querySelector('.md')?.textContent.includes('word5 ')")
    assert b.js("return document.querySelector('#send').textContent") == "Stop"
    b.shot("streaming")
    b.keys(Keys.ESCAPE)
    b.done()
    assert "Stopped." in b.last() and "tokens/s" in b.last()
    end = time.time() + 3
    while Mock.state["cancelled"] == before and time.time() < end: time.sleep(0.05)
    assert Mock.state["cancelled"] == before + 1, "the server was not told"
    b.send("slow", done=False) # and by the button; while it is written, another conversation works
    b.wait("[...document.querySelectorAll('.md')].at(-1).textContent.includes('word2 ')")
    b.js("document.querySelector('#new-button').click()")
    b.send("meanwhile")
    assert "to meanwhile" in b.last()
    b.js("[...document.querySelectorAll('#chats .open')].find(x => x.textContent == 'slow').click()")
    b.wait("document.querySelector('.busy') && document.querySelector('#send').textContent == 'Stop'")
    b.js("document.querySelector('#send').click()")
    b.done()
    b.send("after it") # a stopped answer is part of the conversation
    assert [m["role"] for m in b.asked()["messages"]] == ["user", "assistant", "user", "assistant", "user"]
    no_errors(b)

def test_waiting(b):
    b.open()
    b.send("mute", done=False)
    b.wait("document.querySelector('.wait')?.textContent.includes('Waiting for the first token, 1 s')", 5)
    b.done()
    assert "at last" in b.last()

def test_edit_regenerate(b):
    b.open()
    b.send("one")
    b.send("two")
    n = len(Mock.state["asked"])
    b.press("Regenerate")
    b.wait("document.querySelector('.msg:last-child .md')?.textContent.startsWith('answer %d ')" % (n + 1))
    b.done()
    assert len(b.asked()["messages"]) == 3 and b.asked()["messages"][-1]["content"] == "two"
    b.js("[...document.querySelectorAll('.msg.user')][0].querySelectorAll('button')[1].click()")
    assert "3 messages below" in b.js("return document.querySelector('.msg.user').innerText")
    from selenium.webdriver import Keys
    b.keys(" more", Keys.ENTER)
    b.wait("document.querySelectorAll('.msg').length == 2")
    b.done()
    assert [m["content"] for m in b.asked()["messages"]] == ["one more"]
    b.send("full")  # refused, with a time to wait
    assert "queue_full" in b.last() and "HTTP 503" in b.last() and "512 requests wait already" in b.last() and "Try again in " in b.last()
    b.press("Try again")
    b.wait("document.querySelector('.msg:last-child .md')?.textContent.includes('to full')")
    b.done()
    Mock.state["full"] = 0
    kept = b.js("return document.querySelector('.msg:last-child .md').textContent")
    b.press("Regenerate")  # refused again: the old answer stays
    b.wait("document.querySelector('#notice').innerText.includes('queue_full')")
    assert b.js("return document.querySelector('.msg:last-child .md').textContent") == kept
    Mock.state["full"] = 0

def test_errors(b):
    b.open()
    b.send("break")
    assert "Half an ans" in b.last() and "the server shuts down" in b.last() and "shutting_down" in b.last() and "phase: decode" in b.last()
    b.send("cut")
    assert "ended before the answer was complete" in b.last() or "connection broke" in b.last(), b.last()
    b.send("garbage")
    assert "not JSON" in b.last()
    b.send("context")
    assert "context_length_exceeded" in b.last() and "5000" in b.last() and "start a new chat" in b.last()
    b.shot("error")
    b.send("proxy")
    assert "HTTP 502" in b.last() and "Bad gateway" in b.last()
    b.send("whole")
    assert "in one piece" in b.last()
    b.send("nothing")
    assert "answered nothing" in b.last()
    b.send("long")
    assert "most tokens allowed" in b.last() and "foo: unknown field, ignored" in b.last() and "Reasoning" in b.last()
    b.wait("document.querySelector('#context').textContent.includes('nearly full')")

def test_turns(b):
    b.open()
    b.send("context")  # refused: it would be refused again
    b.send("proxy")  # not answered: part of what comes next
    b.send("nothing")
    b.send("one")
    assert [(m["role"], m["content"]) for m in b.asked()["messages"]] == [("user", "proxy\n\nnothing\n\none")], b.asked()["messages"]
    b.send("two")
    assert [m["role"] for m in b.asked()["messages"]] == ["user", "assistant", "user"], b.asked()["messages"]

def test_key(b):
    Mock.state["key"] = "secret"
    try:
        b.open()
        b.wait("document.querySelector('#notice').innerText.includes('API key')")
        b.send("hello")
        assert "HTTP 401" in b.last()
        b.shot("key")
        b.js("document.querySelector('.msg .key-form input').focus()")
        from selenium.webdriver import Keys
        b.keys("secret", Keys.ENTER)
        b.wait("document.querySelector('.msg:last-child .md')?.textContent.includes('to hello')")
        b.done()
        b.wait("document.querySelector('#model').value == 'small' && !document.querySelector('#notice').innerText")
        assert b.js("return sessionStorage['quern.key']") == "secret" and b.js("return localStorage['quern.key']") is None
        assert "secret" not in b.js("return JSON.stringify(localStorage)")
    finally:
        Mock.state["key"] = None

def test_settings(b):
    b.open()
    b.js("document.querySelector('#settings-button').click()")
    values = {"temperature": "0.7", "top_p": "0.9", "top_k": "20", "min_p": "0.05", "repeat_penalty": "1.1", "max_tokens": "77", "seed": "42"}
    for k, v in values.items():
        b.js("document.querySelector('#knob-' + arguments[0]).focus()", k)
        b.keys(v)
    b.js("document.querySelector('#system').focus()")
    b.keys("Be brief.")
    b.shot("settings")
    b.send("hi")
    sent = b.asked()
    assert {k: sent[k] for k in values} == {k: float(v) for k, v in values.items()}, sent
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    b.js("document.querySelector('#knob-top_p').select()")
    b.keys("5")
    assert "expected a number 0 to 1" in b.js("return document.querySelector('#hint-top_p').textContent")
    n = len(Mock.state["asked"])
    b.send("hi again")
    assert "Top p: expected" in b.last() and len(Mock.state["asked"]) == n, "a wrong setting must not be sent"
    b.press("Server's defaults")
    b.press("Try again")
    b.done()
    assert not set(values) & set(b.asked()), b.asked()
    b.js("const m = document.querySelector('#model'); m.value = 'large-model-with-a-rather-long-name-q4'; m.dispatchEvent(new Event('change'))")
    b.open(clean=False)
    assert b.js("return document.querySelector('#model').value") == "large-model-with-a-rather-long-name-q4"
    b.send("new chat, same system prompt")
    assert b.asked()["messages"][0]["content"] == "Be brief." and b.asked()["model"].startswith("large")

def test_conversations(b):
    b.open()
    for t in ("first one", "second one"):
        b.js("document.querySelector('#new-chat').click()")
        b.send(t)
    b.open(clean=False)
    titles = b.js("return [...document.querySelectorAll('#chats .open')].map(x => x.textContent)")
    assert titles == ["second one", "first one"], titles
    b.js("document.querySelectorAll('#chats .open')[1].click()")
    assert "to first one" in b.last()
    b.js("document.querySelectorAll('#chats li')[1].querySelectorAll('.small')[0].click()")
    b.js("document.querySelector('#export-all').click()")
    end = time.time() + 5
    while len([f for f in os.listdir(b.downloads) if f.endswith(".json")]) < 2 and time.time() < end: time.sleep(0.1)
    whole = json.load(open(os.path.join(b.downloads, "quern-chats.json"), encoding="utf-8"))
    assert len(whole["chats"]) == 2 and whole["chats"][0]["messages"][0]["role"] == "user"
    b.js("document.querySelectorAll('#chats li')[0].querySelectorAll('.small')[1].click()")
    assert b.js("return document.querySelectorAll('#chats li').length") == 1
    b.press("Undo")
    assert b.js("return document.querySelectorAll('#chats li').length") == 2
    b.js("localStorage['quern.chat.bad'] = '{\"id\":\"bad\",\"messages\":7}'; localStorage['quern.chat.worse'] = '{'; localStorage['quern.settings'] = '[1'")
    b.open(clean=False)
    assert b.js("return document.querySelectorAll('#chats li').length") == 2
    no_errors(b)

def test_status(b):
    b.open()
    b.js("document.querySelector('#status-button').click()")
    b.wait("document.querySelector('#status-body').innerText.includes('requests waiting')")
    time.sleep(6.5)
    text = b.js("return document.querySelector('#status-body').innerText")
    for piece in ("ready", "2 of 8", "31.3", "128", "prompt 700 of 2000", "41 tokens", "700 MiB", "first token, median", "100 ms"): assert piece in text, (piece, text)
    assert b.js("return document.querySelectorAll('.spark path').length") == 2
    b.shot("status")
    b.js("document.querySelector('#status-button').click()")
    n = Mock.state["load"]
    time.sleep(2.5)
    assert Mock.state["load"] == n, "asks while closed"

def test_themes(b):
    b.scheme("dark")
    b.open()
    assert b.js("return document.documentElement.dataset.theme") == "dark"
    b.send("markdown")
    b.shot("desktop-dark")
    b.js("document.querySelector('#theme-button').click()")
    assert b.js("return document.documentElement.dataset.theme") == "light"
    b.open(clean=False)
    assert b.js("return document.documentElement.dataset.theme") == "light"
    for theme in ("light", "dark"):  # contrast of the colours in use
        b.js("document.documentElement.dataset.theme = arguments[0]", theme)
        low = b.js("""const s = getComputedStyle(document.documentElement), v = (n) => { const x = s.getPropertyValue(n).trim().slice(1); return [0, 2, 4].map((i) => parseInt(x.slice(i, i + 2), 16) / 255).map((c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4); },
          l = (n) => { const [r, g, b] = v(n); return .2126 * r + .7152 * g + .0722 * b; }, c = (a, b) => (Math.max(l(a), l(b)) + .05) / (Math.min(l(a), l(b)) + .05);
          return [['--text', '--bg'], ['--soft', '--bg'], ['--soft', '--panel'], ['--soft', '--field'], ['--accent', '--bg'], ['--on-accent', '--accent'], ['--bad', '--bad-bg'], ['--warn', '--warn-bg'], ['--warn', '--bg'], ['--text', '--mine'], ['--soft', '--code'], ['--bad', '--field']].filter(([a, b]) => c(a, b) < 4.5).map(([a, b]) => [a, b, c(a, b)])""")
        assert not low, (theme, low)
    b.scheme("light")

def test_phone(b):
    b.size(360, 700)
    try:
        b.open()
        b.fits()
        b.shot("phone-empty")
        b.send("markdown")
        b.fits()
        b.shot("phone")
        b.send("x" * 300)
        b.send("context")
        b.fits()
        for p in ("nav", "settings", "status"):
            b.js("document.querySelector('#%s-button').click()" % p)
            if p == "status": b.wait("document.querySelector('#status-body').innerText.includes('Slots')")
            b.fits()
            b.shot("phone-" + p)
            b.js("document.querySelector('[data-close=%s]').click()" % p)
        b.js("document.querySelector('[data-close]')")
        small = b.js("return [...document.querySelectorAll('header button, #send')].filter(e => { const r = e.getBoundingClientRect(); return r.width < 28 || r.height < 28 }).length")
        assert small == 0
    finally:
        b.d.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

def test_keyboard(b):
    """Every control by Tab alone, each with a name and a focus that is seen."""
    from selenium.webdriver import Keys
    b.open()
    b.keys("line one", Keys.SHIFT, Keys.ENTER)
    b.open()
    from selenium.webdriver import ActionChains
    ActionChains(b.d).send_keys("a").key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).send_keys("b").perform()
    assert b.js("return document.querySelector('#input').value") == "a\nb", "the field has the focus at the start, Shift+Enter breaks the line"
    b.keys(Keys.ENTER)
    b.done()
    assert b.asked()["messages"][-1]["content"] == "a\nb"
    b.js("document.querySelector('#nav-button').focus()")
    seen = []
    for _ in range(40):
        b.keys(Keys.TAB)
        name, ring = b.js("""const e = document.activeElement, s = getComputedStyle(e), box = getComputedStyle(e.closest('.box') || e);
          return [e.id || e.getAttribute('aria-label') || e.title || e.textContent || e.labels?.[0]?.textContent || '', e === document.body || [s, box].some((x) => x.outlineStyle !== 'none' && parseFloat(x.outlineWidth) > 0)]""")
        assert name and ring, ("no name or no visible focus", name, b.js("return document.activeElement.outerHTML")[:200])
        seen.append(name)
        if name == "send": break
    for want in ("model", "new-button", "status-button", "settings-button", "theme-button", "new-chat", "a b", "export-all", "Copy", "Edit", "Regenerate", "input"): assert want in seen, (want, seen)
    b.js("document.querySelector('#settings-button').focus()")
    b.keys(Keys.ENTER)
    assert b.js("return document.activeElement.id") == "system"
    b.keys(Keys.ESCAPE)
    assert b.js("return document.activeElement.id") == "settings-button" and b.js("return document.querySelector('#settings').hidden")
    unnamed = b.js("""return [...document.querySelectorAll('button, input, select, textarea')].filter(e => !(e.textContent.trim() || e.getAttribute('aria-label') || e.title || e.labels?.length)).map(e => e.outerHTML.slice(0, 80))""")
    assert not unnamed, unnamed
    assert "answer" in b.js("return document.querySelector('#say').textContent").lower()

def test_speed(b):
    """A text made to be slow: many marks without partners, deep nesting, a megabyte."""
    b.open()
    for name, text in (("stars", "*a " * 60000), ("brackets", "[" * 60000), ("ticks", "".join("`" * (i % 50 + 1) + " " for i in range(4000))), ("quotes", ">" * 5000 + " x"), ("lists", "".join(" " * i + "- x\n" for i in range(400))),
                       ("under", "_a_b" * 40000), ("bangs", "![" * 40000), ("urls", "https://" * 20000), ("text", "word " * 200000), ("bars", "|" * 50000 + "\n" + "|-" * 400 + "\n"), ("spaces", "# " + " " * 50000 + "x\n" + " " * 50000 + "-")):
        b.js("localStorage['quern.chat.t'] = JSON.stringify({id: 't', title: 't', updated: 1, messages: [{role: 'user', content: 'u'}, {role: 'assistant', content: arguments[0]}]})", text)
        b.open(clean=False)
        t = b.js("const t = performance.now(); document.querySelector('#chats .open').click(); document.body.offsetHeight; return performance.now() - t")
        shown = b.js("return document.querySelector('.md').textContent.length")
        assert t < 2000 and shown, (name, t, shown)
        print("    %s: %.0f ms" % (name, t))

# ---- checks against ./serve ----

def real(b):
    b.open()
    model = b.js("return document.querySelector('#model').value")
    print("  model", model)
    b.send("Tell me a story about a mill.", done=False)
    b.wait("document.querySelector('.md')?.textContent.length > 3")
    b.done(120)
    for piece in ("tokens/s", "first token", "prompt "): assert piece in b.last(), b.last()
    b.wait("document.querySelector('.stats').innerText.includes('context ')")
    b.shot("real-chat")
    b.js("document.querySelector('#settings-button').click()")
    for k, v in (("temperature", "0.5"), ("top_p", "0.9"), ("top_k", "20"), ("min_p", "0.05"), ("repeat_penalty", "1.1"), ("max_tokens", "12"), ("seed", "42")):
        b.js("document.querySelector('#knob-' + arguments[0]).focus()", k)
        b.keys(v)
    b.js("document.querySelector('#new-button').click()")
    b.send("Once upon a time")
    one = b.js("return document.querySelector('.msg:last-child .md').textContent")
    assert " 12 tokens" in b.last() or "12 tokens" in b.last(), b.last()
    assert "most tokens allowed" in b.last()
    b.press("Regenerate")
    time.sleep(0.2)
    b.done()
    assert one and b.js("return document.querySelector('.msg:last-child .md').textContent") == one, "the same seed gives the same answer"
    b.press("Server's defaults")
    b.js("document.querySelector('#status-button').click()")
    b.wait("document.querySelector('#status-body').innerText.includes('Slots')")
    b.send("Another long story, please.", done=False)
    b.wait("document.querySelector('.busy .md')?.textContent.length > 3 || document.querySelector('#send').textContent == 'Send'")
    b.js("document.querySelector('#send').textContent == 'Stop' && document.querySelector('#send').click()")
    b.done()
    time.sleep(2.5)
    text = b.js("return document.querySelector('#status-body').innerText")
    assert "ready" in text and "0 of " in text, text
    b.shot("real-status")
    b.js("const m = document.querySelector('#model'); m.append(Object.assign(document.createElement('option'), {value: 'nosuch'})); m.value = 'nosuch'")
    b.send("hello")
    assert "model_not_found" in b.last() and "HTTP 404" in b.last(), b.last()
    b.js("document.querySelector('#model').value = arguments[0]", model)
    b.js("document.querySelector('#new-button').click(); document.querySelector('#input').value = 'word '.repeat(20000)")
    b.send("x")
    assert "context_length_exceeded" in b.last(), b.last()
    b.shot("real-error")

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shots", help="a folder for pictures")
    p.add_argument("--real", help="address of a running ./serve")
    p.add_argument("--seal", action="store_true")
    p.add_argument("only", nargs="*", help="names of checks")
    a = p.parse_args()
    page = open(PAGE, encoding="utf-8", newline="").read()
    if a.seal:
        open(PAGE, "w", encoding="utf-8", newline="").write(seal(page))
        return 0
    if seal(page) != page: sys.exit("the page's hashes are old: run tests/tools/page_test.py --seal")
    if a.shots: os.makedirs(a.shots, exist_ok=True)
    url = a.real
    if not url:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Mock)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = "http://127.0.0.1:%d/" % server.server_port
    b = Browser(url.rstrip("/") + "/", a.shots)
    bad = 0
    try:
        checks = [real] if a.real else [f for n, f in globals().items() if n.startswith("test_") and (not a.only or n[5:] in a.only)]
        for f in checks:
            try:
                b.d.get_log("browser")
                f(b)
                print("ok  ", f.__name__)
            except Exception as e:
                bad += 1
                where = [x for x in traceback.extract_tb(e.__traceback__) if x.filename == __file__ and x.name.startswith(("test_", "real"))]
                print("BAD ", f.__name__, "line %d: %s" % (where[-1].lineno, where[-1].line) if where else "", type(e).__name__, str(e)[:1500])
                b.shot("bad-" + f.__name__)
    finally:
        b.d.quit()
    return bad != 0

if __name__ == "__main__": sys.exit(main())

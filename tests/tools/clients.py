#!/usr/bin/env python3
"""Real clients against ./serve: openai-python and ollama-python, synchronous and not, whole and streamed; Prometheus' parser.

    make test-clients              makes a throw-away environment with the packages, starts ./serve and runs this
    clients.py ADDRESS MODEL OWN   against servers that run already

MODEL is the demo model's name; the server at ADDRESS has --pooling last, and a model "tools" with a template that knows tools. The server at
OWN may delete (--allow-delete) and has a model "own". Every method that ../shared/API.md names, where there is one. Prints a line a check; status 1 if one fails.
"""
import asyncio
import json
import sys
import urllib.request
from typing import Literal, Optional

import ollama
import openai
import pydantic
from prometheus_client.parser import text_string_to_metric_families

base, name, own = sys.argv[1:4]
messages = [{"role": "user", "content": "Tell me a story"}]
sampling = {"seed": 5, "num_predict": 30, "top_k": 0}  # what the other dialect's defaults come to
failed = 0


def check(what, good, found=""):
    global failed
    failed += not good
    print(("ok    " if good else "FAILED ") + what, "" if good else found, flush=True)


def refused(what, call, kind, test=lambda e: True):
    try:
        call()
        check(what, False, "it was accepted")
    except kind as e:
        check(what, test(e), repr(e))


def openai_whole(c):
    check("models", c.models.list().data[0].id == name)
    check("model", c.models.retrieve(name).id == name)
    r = c.chat.completions.create(model=name, messages=messages, max_tokens=30, seed=5)
    text = r.choices[0].message.content
    check("chat", len(text) > 20 and r.usage.completion_tokens == 30 and r.system_fingerprint, r)
    s = c.chat.completions.create(model=name, messages=messages, max_tokens=30, seed=5, stream=True)
    check("chat, streamed", "".join(k.choices[0].delta.content or "" for k in s) == text)
    with c.chat.completions.stream(model=name, messages=messages, seed=5, stream_options={"include_usage": True}) as s:
        final = s.get_final_completion()
    check("chat.completions.stream", final.choices[0].message.content.startswith(text) and final.usage.completion_tokens > 30, final)
    r = c.chat.completions.create(model=name, messages=messages, max_tokens=3, logprobs=True, top_logprobs=3)
    check("logprobs", len(r.choices[0].logprobs.content) == 3 and len(r.choices[0].logprobs.content[0].top_logprobs) == 3, r)
    r = c.completions.create(model=name, prompt=["a", "b"], n=2, max_tokens=3, logprobs=2, echo=True)
    check("completions", len(r.choices) == 4 and len(r.choices[0].logprobs.tokens) == len(r.choices[0].logprobs.text_offset), r)
    ask = dict(model=name, prompt="Once upon", max_tokens=20, seed=5)
    s = c.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    pieces = list(s)
    check("completions, streamed", "".join(k.choices[0].text for k in pieces if k.choices) == c.completions.create(**ask).choices[0].text and pieces[-1].usage.completion_tokens == 20, pieces)
    both = c.embeddings.create(model=name, input=["hi", "ho"], extra_body={"pooling": "mean"})  # base64
    one = c.embeddings.create(model=name, input="hi", encoding_format="float", extra_body={"pooling": "mean"})
    apart = max(abs(a - b) for a, b in zip(both.data[0].embedding, one.data[0].embedding))
    check("embeddings", len(both.data) == 2 and apart < 1e-7, apart)
    unlike = c.embeddings.create(model=name, input="hi")  # by --pooling, and it says so
    check("embeddings, the server's pooling", unlike.data[0].embedding != one.data[0].embedding and "--pooling" in str(unlike.model_extra["warnings"]), unlike.model_extra)
    ids = c.embeddings.create(model=name, input=[[5, 6], [7]], dimensions=8)
    check("embeddings of ids", [len(d.embedding) for d in ids.data] == [8, 8] and ids.usage.prompt_tokens == 3, ids.usage)
    check("responses", len(c.responses.create(model=name, input="Tell me a story", max_output_tokens=300).output_text) > 10)
    with c.responses.stream(model=name, input="Tell me a story") as s:
        check("responses.stream", len(s.get_final_response().output_text) > 10)
    ask = dict(model=name, input="Tell me a story", max_output_tokens=30, extra_body={"seed": 5})
    events = list(c.responses.create(**ask, stream=True))
    whole = c.responses.create(**ask)
    deltas = "".join(v.delta for v in events if v.type == "response.output_text.delta")
    check("responses, streamed", deltas == events[-1].response.output_text and [v.sequence_number for v in events] == list(range(len(events))), events[-1])
    check("responses, incomplete", whole.status == "incomplete" and whole.incomplete_details.reason == "max_output_tokens" and events[-1].type == "response.incomplete", whole)
    return text


def openai_errors(c):
    def ask(**more):
        return lambda: c.chat.completions.create(**{"model": name, "messages": messages, **more})

    refused("unknown model", ask(model="nope"), openai.NotFoundError, lambda e: e.code == "model_not_found")
    long = [{"role": "user", "content": "story " * 3000}]
    refused("long prompt", ask(messages=long), openai.BadRequestError, lambda e: e.code == "context_length_exceeded")
    refused("temperature", ask(temperature=3), openai.BadRequestError, lambda e: e.param == "temperature")


async def asynchronous(text):
    c = openai.AsyncOpenAI(base_url=base + "/v1", api_key="x", max_retries=0)
    all_of = await asyncio.gather(*[c.chat.completions.create(model=name, messages=messages, max_tokens=30, seed=5) for _ in range(20)])
    check("20 at once", all(r.choices[0].message.content == text for r in all_of))
    got = ""
    async for k in await c.chat.completions.create(model=name, messages=messages, max_tokens=30, seed=5, stream=True):
        got += k.choices[0].delta.content or ""
    check("async, streamed", got == text, got)
    check("async models", [m.id async for m in c.models.list()][0] == name and (await c.models.retrieve(name)).id == name)
    async with c.chat.completions.stream(model=name, messages=messages, seed=5) as s:  # to its end: a limit is an error there
        check("async chat.completions.stream", (await s.get_final_completion()).choices[0].message.content.startswith(text))
    ask = dict(model=name, prompt="Once upon", max_tokens=20, seed=5)
    whole = (await c.completions.create(**ask)).choices[0].text
    check("async completions, streamed", "".join([k.choices[0].text async for k in await c.completions.create(**ask, stream=True)]) == whole)
    e = await c.embeddings.create(model=name, input=["hi", "ho"])
    check("async embeddings", len(e.data) == 2 and len(e.data[0].embedding) > 8)
    ask = dict(model=name, input="Tell me a story", max_output_tokens=300)
    check("async responses", len((await c.responses.create(**ask)).output_text) > 10)
    events = [v async for v in await c.responses.create(**ask, stream=True)]
    check("async responses, streamed", events[0].type == "response.created" and events[-1].response.output_text == "".join(v.delta for v in events if v.type == "response.output_text.delta"))
    async with c.responses.stream(**ask) as s:
        check("async responses.stream", len((await s.get_final_response()).output_text) > 10)
    r = await c.chat.completions.parse(model=name, messages=messages, response_format=Place, temperature=1, max_tokens=300)
    check("async parse", isinstance(r.choices[0].message.parsed, Place), r)
    r = await c.responses.parse(model=name, input="Tell me a story", text_format=Place, temperature=1)
    check("async responses.parse", isinstance(r.output_parsed, Place), r)
    try:
        await c.chat.completions.create(model="nope", messages=messages)
        check("async, unknown model", False)
    except openai.NotFoundError as e:
        check("async, unknown model", e.code == "model_not_found", e)


async def ollama_asynchronous(text):
    o = ollama.AsyncClient(host=base)
    got = ""
    async for k in await o.chat(model=name, messages=messages, stream=True, options=sampling):
        got += k.message.content
    check("ollama, async, streamed", got == text, got)
    check("ollama, async", (await o.chat(model=name, messages=messages, options=sampling)).message.content == text)
    g = await o.generate(model=name, prompt="Tell me a story", options=sampling)
    got = "".join([k.response async for k in await o.generate(model=name, prompt="Tell me a story", options=sampling, stream=True)])
    check("async generate, streamed", g.response == got == text)
    check("async list, ps, show", name + ":latest" in [m.model for m in (await o.list()).models] and (await o.ps()).models and "completion" in (await o.show(name)).capabilities)
    check("async pull", (await o.pull(name)).status == "success" and [k.status async for k in await o.pull(name, stream=True)][-1] == "success")
    e, old = await o.embed(name, ["hi", "ho"]), await o.embeddings(name, "hi")
    check("async embed", len(e.embeddings) == 2 and list(old.embedding) == list(e.embeddings[0]), e)
    for what, status, call in [
        ("push", 501, lambda: o.push("x")), ("create", 501, lambda: o.create("x", from_="y")), ("create_blob", 501, lambda: o.create_blob(sys.argv[0])),
        ("delete", 403, lambda: o.delete(name)), ("copy", 403, lambda: o.copy(name, "x")), ("chat with another", 404, lambda: o.chat("x", messages)),
    ]:
        try:
            await call()
            check("async " + what, False, "it was accepted")
        except ollama.ResponseError as error:
            check("async " + what, error.status_code == status, error)


def ollama_deletes():
    o = ollama.Client(host=own)
    check("copy", o.copy("own", "second").status == "success" and o.chat("second", messages, options={"num_predict": 3}).done)
    check("delete", o.delete("second").status == "success" and [m.model for m in o.list().models] == ["own:latest"], o.list())

    async def again():
        a = ollama.AsyncClient(host=own)
        copied = (await a.copy("own", "third")).status == "success" and len((await a.list()).models) == 2
        check("async copy and delete", copied and (await a.delete("third")).status == "success" and len((await a.list()).models) == 1)

    asyncio.run(again())


def ollama_all(text):
    o = ollama.Client(host=base)
    check("list", name + ":latest" in [m.model for m in o.list().models])
    check("ps", name + ":latest" in [m.model for m in o.ps().models] and o.ps().models[0].expires_at is not None)
    check("ollama chat", o.chat(model=name, messages=messages, options=sampling).message.content == text)
    g = o.generate(model=name, prompt="Tell me a story", options=sampling)
    check("generate", g.response == text)
    check("durations", g.total_duration >= g.load_duration + g.prompt_eval_duration + g.eval_duration > 0, g)
    s = o.generate(model=name, prompt="Tell me a story", stream=True, options=sampling)
    check("generate, streamed", "".join(k.response for k in s) == text)
    e, old = o.embed(name, ["hi", "ho"]), o.embeddings(name, "hi")
    check("embed", len(e.embeddings) == 2 and e.prompt_eval_count > 0 and list(old.embedding) == list(e.embeddings[0]), e)
    check("embed, dimensions", len(o.embed(name, "hi", dimensions=8).embeddings[0]) == 8)
    check("generate loads and unloads", o.generate(name, "", keep_alive=0).done_reason == "unload" and o.generate(name).done_reason == "load")
    check("show", o.show(name).modelinfo["general.architecture"] == "llama")
    check("pull", o.pull(name).status == "success" and [k.status for k in o.pull(name, stream=True)][-1] == "success")
    for what, status, call in [
        ("push", 501, lambda: o.push("x")), ("create", 501, lambda: o.create("x", from_="y")), ("create_blob", 501, lambda: o.create_blob(sys.argv[0])),
        ("push, streamed", 501, lambda: list(o.push("x", stream=True))), ("create, streamed", 501, lambda: list(o.create("x", from_="y", stream=True))), ("pull of another", 501, lambda: o.pull("x")),
        ("delete", 403, lambda: o.delete(name)), ("copy", 403, lambda: o.copy(name, "x")), ("chat with another", 404, lambda: o.chat("x", messages)),
        ("num_predict -512", 400, lambda: o.chat(name, messages, options={"num_predict": -512})),
    ]:
        refused(what, call, ollama.ResponseError, lambda e, status=status: e.status_code == status)


class Place(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")  # a small model would go on adding members
    city: str = pydantic.Field(max_length=12)
    days: Optional[int] = pydantic.Field(ge=0, le=9)


class Trip(pydantic.BaseModel):
    kind: Literal["walk", "ride"]
    places: list[Place] = pydantic.Field(min_length=1, max_length=2)
    hurry: bool


weather = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": Place.model_json_schema()}}


def structured_openai(c):
    whole = 0
    for seed in range(6):
        try:
            r = c.chat.completions.parse(model=name, messages=messages, response_format=Trip, seed=seed, temperature=1.3, max_tokens=300)
            whole += isinstance(r.choices[0].message.parsed, Trip)
        except openai.LengthFinishReasonError:
            pass
    check("parse into Pydantic", whole >= 3, whole)
    r = c.responses.parse(model=name, input="Tell me a story", text_format=Place, temperature=1)
    check("responses.parse", isinstance(r.output_parsed, Place), r)
    refused("a schema that cannot be kept", lambda: c.chat.completions.create(model=name, messages=messages, response_format={
        "type": "json_schema", "json_schema": {"name": "x", "schema": {"properties": {"a": {"not": {}}}}}}), openai.BadRequestError, lambda e: "#/properties/a/not" in str(e))
    ask = dict(model="tools", messages=messages, tools=[weather], seed=7, temperature=1, max_tokens=300)
    named = {"type": "function", "function": {"name": "weather"}}
    r = c.chat.completions.create(**ask, tool_choice=named, parallel_tool_calls=False)
    call = r.choices[0].message.tool_calls[0]
    check("tool_choice", call.function.name == "weather" and Place.model_validate_json(call.function.arguments) and r.choices[0].finish_reason == "tool_calls", r)
    with c.chat.completions.stream(**ask, tool_choice=named, parallel_tool_calls=False) as s:
        m = s.get_final_completion().choices[0].message
    check("tool_choice, streamed", m.tool_calls[0].function.arguments == call.function.arguments, m)
    told = messages + [r.choices[0].message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "sun"}]
    check("its result", c.chat.completions.create(**{**ask, "messages": told, "max_tokens": 5}).usage.completion_tokens > 0)
    tool = {"type": "function", "name": "weather", "parameters": Place.model_json_schema(), "strict": False}
    with c.responses.stream(model="tools", input="a", tools=[tool], tool_choice="required", parallel_tool_calls=False, temperature=1) as s:
        out = s.get_final_response().output
    check("responses with tools", out[-1].type == "function_call" and Place.model_validate_json(out[-1].arguments), out)
    r = c.chat.completions.parse(**{**ask, "tools": [openai.pydantic_function_tool(Place)]}, tool_choice="required", parallel_tool_calls=False)
    check("pydantic_function_tool", isinstance(r.choices[0].message.tool_calls[0].function.parsed_arguments, Place), r)


def structured_ollama():
    o = ollama.Client(host=base)
    r = o.chat(model=name, messages=messages, format=Place.model_json_schema(), options={"temperature": 1})
    check("format", Place.model_validate_json(r.message.content), r)
    check("format json", isinstance(json.loads(o.generate(model=name, prompt="a", format="json", options={"temperature": 0.5, "seed": 3}).response), dict))
    r = o.chat(model="tools", messages=messages, tools=[weather], options={"num_predict": 20})
    check("ollama tools", r.done_reason in ("stop", "length"), r)
    ask = dict(model="tools", messages=messages, tools=[weather], stream=False, tool_choice="required", parallel_tool_calls=False, options={"temperature": 1, "num_predict": 400})
    call = o._request(ollama.ChatResponse, "POST", "/api/chat", json=ask).message.tool_calls[0]  # tool_choice is quern's: the client has no name for it
    check("ollama, a required call", call.function.name == "weather" and Place(**call.function.arguments), call)
    told = messages + [{"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Rome"}}}]}, {"role": "tool", "tool_name": "weather", "content": "sun"}]
    check("ollama history", o.chat(model="tools", messages=told, tools=[weather], options={"num_predict": 5}).done)


client = openai.OpenAI(base_url=base + "/v1", api_key="x", max_retries=0)
story = openai_whole(client)
openai_errors(client)
asyncio.run(asynchronous(story))
asyncio.run(ollama_asynchronous(story))
ollama_deletes()
ollama_all(story)
structured_openai(client)
structured_ollama()
families = list(text_string_to_metric_families(urllib.request.urlopen(base + "/metrics").read().decode()))
check("metrics", len(families) > 20, families)
sys.exit(1 if failed else 0)

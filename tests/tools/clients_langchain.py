#!/usr/bin/env python3
"""LangChain's clients against ./serve: ChatOllama, OllamaLLM, OllamaEmbeddings, ChatOpenAI, OpenAI, OpenAIEmbeddings; whole, streamed, in batches, with tools
and structures, synchronous and not. Run by make test-clients.

    clients_langchain.py ADDRESS MODEL     the server has --pooling last, and a model "tools" whose template knows tools

Prints a line a check; status 1 if one fails.
"""
import asyncio
import os
import sys
from typing import Optional

import pydantic
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

base, name = sys.argv[1:3]
os.environ["LANGSMITH_TRACING"] = "false"  # nothing outside is asked
loop = asyncio.new_event_loop()  # one: LangChain keeps its connections between calls
failed = 0


def check(what, good, found=""):
    global failed
    failed += not good
    print(("ok    " if good else "FAILED ") + what, "" if good else found, flush=True)


class Place(pydantic.BaseModel):
    """A place to go to."""

    model_config = pydantic.ConfigDict(extra="forbid")  # a small model would go on adding members
    city: str = pydantic.Field(max_length=12)
    days: Optional[int] = pydantic.Field(ge=0, le=9)


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return "sun in " + city


def text_of(message):
    return message if isinstance(message, str) else message.text if isinstance(message.text, str) else message.text()


def models_of_text():
    for seed in (5,):
        yield "ChatOllama", ChatOllama(model=name, base_url=base, seed=seed, num_predict=30)
        yield "OllamaLLM", OllamaLLM(model=name, base_url=base, seed=seed, num_predict=30)
        yield "ChatOpenAI", ChatOpenAI(model=name, base_url=base + "/v1", api_key="x", seed=seed, max_tokens=30, stream_usage=True)
        yield "OpenAI", OpenAI(model=name, base_url=base + "/v1", api_key="x", seed=seed, max_tokens=30)
        yield "ChatOpenAI, responses", ChatOpenAI(model=name, base_url=base + "/v1", api_key="x", max_tokens=30, temperature=0, use_responses_api=True)


async def asynchronous(what, m, question, text):
    check(what + " ainvoke", text_of(await m.ainvoke(question)) == text)
    check(what + " astream", "".join([text_of(k) async for k in m.astream(question)]) == text)
    check(what + " abatch", [text_of(r) for r in await m.abatch([question] * 5)] == [text] * 5)
    kinds = {e["event"].split("_")[-1] async for e in m.astream_events(question, version="v2")}
    check(what + " astream_events", {"start", "stream", "end"} <= kinds, kinds)


def whole_and_streamed():
    for what, m in models_of_text():
        question = "Tell me a story"
        whole = m.invoke(question)
        text = text_of(whole)
        check(what + " invoke", len(text) > 20, whole)
        check(what + " stream", "".join(text_of(k) for k in m.stream(question)) == text)
        check(what + " batch", [text_of(r) for r in m.batch([question] * 5)] == [text] * 5)
        if isinstance(whole, AIMessage):
            check(what + " usage", whole.usage_metadata["output_tokens"] == 30, whole.usage_metadata)
            last = None
            for k in m.stream(question):
                last = k if last is None else last + k
            check(what + " usage, streamed", last.usage_metadata["output_tokens"] == 30, last.usage_metadata)
        loop.run_until_complete(asynchronous(what, m, question, text))
    chain = ChatPromptTemplate.from_messages([("system", "You tell stories."), ("human", "Tell me about {x}")]) | ChatOllama(model=name, base_url=base, num_predict=20) | StrOutputParser()
    check("a chain", len(chain.invoke({"x": "a cat"})) > 5)
    full = dict(mirostat=0, mirostat_eta=0.1, mirostat_tau=5.0, num_ctx=512, num_gpu=0, num_thread=1, repeat_last_n=64, repeat_penalty=1.1, temperature=0.7, stop=["zzz"], tfs_z=1.0, top_k=40, top_p=0.9, keep_alive="5m")
    check("every option", len(text_of(ChatOllama(model=name, base_url=base, num_predict=10, validate_model_on_init=True, **full).invoke("a"))) > 3)


def tools_and_structures():
    chats = [("ChatOllama", ChatOllama(model=name, base_url=base, temperature=1, seed=3), ChatOllama(model="tools", base_url=base, temperature=1, seed=7, num_predict=300)),
             ("ChatOpenAI", ChatOpenAI(model=name, base_url=base + "/v1", api_key="x", temperature=1, seed=3), ChatOpenAI(model="tools", base_url=base + "/v1", api_key="x", temperature=1, seed=7, max_tokens=300))]
    for what, m, with_tools in chats:
        s = m.with_structured_output(Place, method="json_schema")
        check(what + " with_structured_output", isinstance(s.invoke("Tell me a story"), Place))
        check(what + " with_structured_output, async", isinstance(loop.run_until_complete(s.ainvoke("Tell me a story")), Place))
        check(what + " with_structured_output, streamed", isinstance(list(s.stream("Tell me a story"))[-1], Place))
        raw = m.with_structured_output(Place.model_json_schema() | {"title": "Place"}, method="json_schema", include_raw=True).invoke("Tell me a story")
        check(what + " with_structured_output of a schema", Place(**raw["parsed"]) and raw["parsing_error"] is None, raw)
        bound = with_tools.bind_tools([weather])
        check(what + " bind_tools", isinstance(bound.invoke("Tell me a story"), AIMessage))  # it knows no tools: it may call or not
        history = [SystemMessage("You know the weather."), HumanMessage("Is there sun in Rome?"), AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "Rome"}, "id": "abcdefghi"}]),
                   ToolMessage("sun", tool_call_id="abcdefghi")]
        check(what + " history with a call", isinstance(bound.invoke(history), AIMessage))
        check(what + " bind_tools, streamed", len(list(bound.stream("Tell me a story"))) > 1)
    m = chats[1][2]
    forced = m.bind_tools([Place], tool_choice="Place", parallel_tool_calls=False)
    call = forced.invoke("Tell me a story").tool_calls[0]
    check("ChatOpenAI tool_choice", call["name"] == "Place" and Place(**call["args"]), call)
    last = None
    for k in forced.stream("Tell me a story"):
        last = k if last is None else last + k
    check("ChatOpenAI tool_choice, streamed", last.tool_calls[0]["args"] == call["args"], last)
    check("ChatOpenAI tool_choice, async", loop.run_until_complete(forced.ainvoke("Tell me a story")).tool_calls[0]["args"] == call["args"])
    by_call = m.with_structured_output(Place, method="function_calling")
    check("ChatOpenAI with_structured_output by a call", isinstance(by_call.invoke("Tell me a story"), Place))


def embeddings():
    one = OllamaEmbeddings(model=name, base_url=base)
    two = OpenAIEmbeddings(model=name, base_url=base + "/v1", api_key="x", check_embedding_ctx_length=False)
    for what, e in (("OllamaEmbeddings", one), ("OpenAIEmbeddings", two)):
        many = e.embed_documents(["a cat", "a dog", "the sea"])
        check(what, len(many) == 3 and max(abs(a - b) for a, b in zip(many[1], e.embed_query("a dog"))) < 1e-6)
        check(what + ", async", loop.run_until_complete(e.aembed_documents(["a cat"]))[0][:3] == many[0][:3] and len(loop.run_until_complete(e.aembed_query("a cat"))) == len(many[0]))
    check("the same of both", max(abs(a - b) for a, b in zip(one.embed_query("a cat"), two.embed_query("a cat"))) < 1e-6)


whole_and_streamed()
tools_and_structures()
embeddings()
sys.exit(1 if failed else 0)

#!/bin/sh
# make test-clients: ./serve with the demo model, and real clients in a throw-away environment (build/clients). usage: clients.sh BIN MODEL
set -e
bin=$1 model=$2 env=build/clients
[ -x $env/bin/python ] || python3 -m venv $env
packages='openai ollama prometheus-client langchain-ollama langchain-openai'
$env/bin/python -c 'import openai, ollama, prometheus_client, langchain_ollama, langchain_openai' 2>/dev/null || $env/bin/pip install -q $packages
# The demo model as if its checkpoint had a template that knows tools.
mkdir -p $env.tools && cp weights/pip-stories/*.json weights/pip-stories/model.safetensors $env.tools/
sed -i 's/"chat_template"/"no_template"/' $env.tools/tokenizer_config.json
cp tests/fixtures/chat_templates/qwen2.5.jinja $env.tools/chat_template.jinja
"$bin/convert" $env.tools -o $env.tools/tools.bin --force >/dev/null 2>&1
# Two servers: one as people run it; one that lets clients delete and copy, in a folder of its own.
mkdir -p $env.own && cp $env.tools/tools.bin $env.own/own.bin
"$bin/serve" "$model" $env.tools/tools.bin --pooling last --port 0 --log none 2>build/clients.log &
pids=$!
"$bin/serve" $env.own --allow-delete --port 0 --log none 2>build/clients-own.log &
pids="$pids $!"
trap 'kill $pids 2>/dev/null' EXIT
address_in() { # a server that has many to wait for takes long to start
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
        sed -n 's/.*listening on \(http:[^,]*\),.*/\1/p' "$1" | grep . && return
        sleep 0.5
    done
    cat "$1" >&2
    exit 1
}
address=$(address_in build/clients.log)
own=$(address_in build/clients-own.log)
name=$(basename "$model" .bin)
bad=0
$env/bin/python tests/tools/clients.py "$address" "$name" "$own" || bad=1
$env/bin/python tests/tools/clients_langchain.py "$address" "$name" || bad=1
exit $bad

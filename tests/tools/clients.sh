#!/bin/sh
# make test-clients: ./serve with the demo model, and real clients in a throw-away environment (build/clients). usage: clients.sh BIN MODEL
set -e
bin=$1 model=$2 env=build/clients
[ -x $env/bin/python ] || python3 -m venv $env
$env/bin/python -c 'import openai, ollama, prometheus_client' 2>/dev/null || $env/bin/pip install -q openai ollama prometheus-client
# The demo model as if its checkpoint had a template that knows tools.
mkdir -p $env.tools && cp weights/pip-stories/*.json weights/pip-stories/model.safetensors $env.tools/
sed -i 's/"chat_template"/"no_template"/' $env.tools/tokenizer_config.json
cp tests/fixtures/chat_templates/qwen2.5.jinja $env.tools/chat_template.jinja
"$bin/convert" $env.tools -o $env.tools/tools.bin --force >/dev/null 2>&1
"$bin/serve" "$model" $env.tools/tools.bin --port 0 --log none 2>build/clients.log &
pid=$!
trap 'kill $pid 2>/dev/null' EXIT
for _ in 1 2 3 4 5 6 7 8 9 10; do
    address=$(sed -n 's/.*listening on \(http:[^,]*\),.*/\1/p' build/clients.log)
    [ -n "$address" ] && break
    sleep 0.3
done
[ -n "$address" ] || { cat build/clients.log >&2; exit 1; }
name=$(basename "$model" .bin)
$env/bin/python tests/tools/clients.py "$address" "$name"

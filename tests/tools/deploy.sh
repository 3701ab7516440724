#!/bin/sh
# Tries tools/deploy for real (not part of make test): the files through haproxy, promtool and systemd-analyze, then three instances of
# ./serve behind HAProxy: sticky sessions, one killed under load, one drained under load. bench/serve is the clients.
#   sh tests/tools/deploy.sh [FOLDER OF PROGRAMS] [MODEL.bin]        needs haproxy, prometheus, curl (apt-get install haproxy prometheus)
# What must hold: no request fails but those that the killed instance was answering, and each of these is an error to its client;
# a drained instance costs none at all.
bin=$(cd "${1:-.}" && pwd) && model=${2:-weights/pip-stories.bin}
root=$(cd "$(dirname "$0")/../.." && pwd) && deploy=$root/tools/deploy
work=$(mktemp -d) && bad=0 && pids=
say() { printf '%s\n' "$*"; }
wrong() { bad=1; say "FAILED: $*"; }
clean() { for p in $pids; do kill -9 "$p" 2>/dev/null; done; rm -rf "$work"; }
trap clean EXIT
for need in haproxy promtool prometheus curl; do command -v $need >/dev/null || { say "$need is not installed"; exit 2; }; done

# ---- the files by themselves ----
haproxy -c -q -f "$deploy/haproxy.cfg" || wrong "haproxy -c"
promtool check config "$deploy/prometheus.yml" >"$work/log" 2>&1 || { cat "$work/log"; wrong "promtool check config"; }
promtool check rules "$deploy/alerts.yml" >"$work/log" 2>&1 || { cat "$work/log"; wrong "promtool check rules"; }
promtool test rules "$root/tests/tools/deploy_alerts.yml" >"$work/log" 2>&1 || { cat "$work/log"; wrong "promtool test rules"; }
if command -v systemd-analyze >/dev/null; then # the program stands elsewhere here
    sed "s|/usr/local/bin/quern-serve|$bin/serve|" "$deploy/quern.service" >"$work/quern.service"
    systemd-analyze verify "$work/quern.service" || wrong "systemd-analyze verify"
fi

# ---- three instances ----
free_port() { # one that nobody listens on, from where we were
    port=$((port + 1))
    while curl -s -o /dev/null --max-time 1 "http://127.0.0.1:$port/"; do port=$((port + 1)); done
}
port=$((20000 + $$ % 20000))
for n in 1 2 3; do
    free_port
    eval "port$n=$port"
    "$bin/serve" "$model" --port "$port" --threads 1 --trust-proxy 127.0.0.1 --allow-host llm.example.org 2>"$work/serve$n" &
    eval "pid$n=$!"
    pids="$pids $!"
done
free_port; front=$port
free_port; stats=$port
QUERN_BIND=127.0.0.1:$front QUERN_STATS=127.0.0.1:$stats QUERN_ONE=127.0.0.1:$port1 QUERN_TWO=127.0.0.1:$port2 QUERN_THREE=127.0.0.1:$port3 \
    QUERN_HAPROXY_SOCKET=$work/socket haproxy -f "$deploy/haproxy.cfg" 2>"$work/haproxy" &
pids="$pids $!"
url=http://127.0.0.1:$front
for i in 1 2 3 4 5 6 7 8 9 10; do curl -sf -o /dev/null "$url/v1/models" && break; sleep 0.5; done
curl -sf -o /dev/null "$url/v1/models" || { cat "$work/haproxy" "$work"/serve?; wrong "no answer through the proxy"; exit 1; }
[ "$(curl -s -o /dev/null -w '%{http_code}' "$url/metrics")" = 404 ] || wrong "/metrics is open to all"
curl -sf "http://127.0.0.1:$stats/metrics" | grep -q '^haproxy_backend_active_servers{proxy="quern"} 3' || wrong "the proxy does not see three instances"
# The name that clients use goes through, and only that one.
status() { curl -s -o "$work/log" -w '%{http_code}' -H "Host: $1" "$url/v1/models"; }
[ "$(status llm.example.org)" = 200 ] || wrong "a name that is allowed is refused"
[ "$(status evil.example)" = 403 ] && grep -q -e '--allow-host' "$work/log" || wrong "a name that is not allowed passes, or its 403 does not say what to do"
# A client's address goes through; what it says of itself does not.
curl -s -o /dev/null --interface 127.0.0.9 -H 'X-Forwarded-For: 203.0.113.9' "$url/v1/models"
grep -q ' 127.0.0.9 by 127.0.0.1 GET /v1/models ' "$work"/serve? || wrong "the instances do not see whom the proxy asks for"
grep -q ' 203.0.113.9 ' "$work"/serve? && wrong "a client chooses its address"
for p in $port1 $port2 $port3; do # every name that the alerts use
    curl -sf "http://127.0.0.1:$p/metrics" >"$work/metrics"
    for name in $(grep -oE '(quern|ollama|llamacpp)[_:][a-z_]+(_bucket|_total|_status|_deferred)' "$deploy/alerts.yml" | sort -u); do grep -q "^$name" "$work/metrics" || wrong "$name: no such figure"; done
done
# Prometheus with the two files as they are, but for ports and patience.
free_port; prom=$port
sed "s/127.0.0.1:8081/127.0.0.1:$port1/; s/127.0.0.1:8082/127.0.0.1:$port2/; s/127.0.0.1:8083/127.0.0.1:$port3/; s/127.0.0.1:8404/127.0.0.1:$stats/; s/: 15s/: 1s/" "$deploy/prometheus.yml" >"$work/prometheus.yml"
cp "$deploy/alerts.yml" "$work/alerts.yml"
prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/tsdb" --web.listen-address="127.0.0.1:$prom" --log.level=error 2>"$work/prometheus" &
pids="$pids $!"
ask() { curl -s "http://127.0.0.1:$prom/api/v1/query" --data-urlencode "query=$1" | sed -n 's/.*"value":\[[0-9.]*,"\([^"]*\)".*/\1/p'; }
served() { curl -s "http://127.0.0.1:$1/metrics" | sed -n 's/^inference_requests_total //p'; }
number() { grep -o "\"$2\":[0-9][0-9]*" "$work/$1" | head -n 1 | sed "s/.*://"; } # the first of the name

# ---- sticky ----
for i in 1 2 3 4 5 6 7 8; do
    curl -sf -o /dev/null -H 'X-Session-Id: one-and-the-same' "$url/v1/completions" -d '{"prompt":"Once '$i'","max_tokens":2}' || wrong "a request failed"
done
say "one session: $(served $port1) + $(served $port2) + $(served $port3) requests"
case "$(served $port1) $(served $port2) $(served $port3)" in "8 0 0" | "0 8 0" | "0 0 8") ;; *) wrong "one session went to several instances" ;; esac

# ---- killed under load ----
load() { "$bin/bench/serve" "$url" --clients 12 --duration 8 --max-tokens 400 --body '{"ignore_eos":true}' --timeout 20 --json; }
load >"$work/killed" & l=$!
sleep 3
running=$(curl -s "http://127.0.0.1:$port2/metrics" | sed -n 's/^llamacpp:requests_\(processing\|deferred\) //p' | awk '{ n += $1 } END { print n }')
kill -9 "$pid2"
wait $l
say "one of three killed: $(number killed requests) requests, $(number killed good) good, $(number killed failed) failed ($running ran there just before): truncated $(number killed truncated), closed $(number killed closed), status $(number killed status), timeout $(number killed timeout)"
[ "$(number killed failed)" -ge 1 ] || wrong "nothing ran on the instance that was killed: nothing was tried"
[ "$(number killed failed)" -le 12 ] || wrong "more failed than can have run on the dead instance"
[ "$(number killed timeout)" = 0 ] || wrong "a client was left in silence"
[ "$(number killed failed)" = "$(number killed truncated)" ] || wrong "errors other than broken streams: $(grep -o '"first_messages":{[^}]*}' "$work/killed")"

say "Prometheus: $(ask 'sum(up{job="quern"})') of 3 instances up, $(ask 'count(quern:first_token_seconds:p95 > 0)') with a p95 of the first token, alerts on their way: $(ask 'count(ALERTS{alertname=~"QuernDown|QuernInstancesMissing"})')"
[ "$(ask 'sum(up{job="quern"})')" = 2 ] || { cat "$work/prometheus"; wrong "Prometheus does not see two instances up and one down"; }
[ "$(ask 'count(ALERTS{alertname=~"QuernDown|QuernInstancesMissing"})')" = 2 ] || wrong "the death of an instance alerts nobody"
[ "$(ask 'count(quern:tokens:rate1m > 0)')" -ge 2 ] || wrong "no tokens are seen by Prometheus"

# ---- drained under load ----
load >"$work/drained" & l=$!
sleep 3
kill -TERM "$pid3"
wait $l
say "one of two drained: $(number drained requests) requests, $(number drained good) good, $(number drained failed) failed"
[ "$(number drained failed)" = 0 ] || wrong "requests were lost by a drain: $(grep -o '"first_messages":{[^}]*}' "$work/drained")"
kill -0 "$pid3" 2>/dev/null && sleep 5 && kill -0 "$pid3" 2>/dev/null && wrong "the drained instance is still there"
[ $bad = 0 ] && say "deploy: all well"
exit $bad

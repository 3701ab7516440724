#!/bin/sh
# Runs a command and prints the most memory it had: anonymous (its own), and resident with the files it maps. Linux. For convert:
#   tests/tools/peak_memory.sh ./convert CHECKPOINT -o model.bin --type q4
# A checkpoint of a real shape with random weights does: memory and time do not depend on what they say.
"$@" &
pid=$! own=0 all=0
while kill -0 $pid 2>/dev/null; do
    a=$(awk '/^RssAnon/ { print $2 }' /proc/$pid/status 2>/dev/null) r=$(awk '/^VmRSS/ { print $2 }' /proc/$pid/status 2>/dev/null)
    [ "${a:-0}" -gt $own ] && own=$a
    [ "${r:-0}" -gt $all ] && all=$r
    sleep 0.1
done
wait $pid
status=$?
echo "peak: $((own / 1024)) MiB of its own, $((all / 1024)) MiB with mapped files" >&2
exit $status

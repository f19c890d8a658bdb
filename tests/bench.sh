#!/usr/bin/env bash
# Measures what docs/benchmarks.md quotes of the VPN and of programs' flows, in namespaces of this host, as root:
#
#   bash tests/bench.sh                                # all that can be measured here: about a minute a peer and round
#   bash tests/bench.sh --peers strata,wireguard-go --rounds 5
#   bash tests/bench.sh --list                         # which peers are installed
#
# Two namespaces and a veth pair between them, one tunnel at a time, peers in turn in each round; medians. Prints tables in markdown, and
# writes them, every figure and a plot (vpn.svg) to target/bench (--out DIR). Needs iproute2, ping and iperf3. Peers that PATH and
# $PEERS_DIR/bin lack are named.
# --harness DIR: tunnels are measured by DIR/bench.py, which knows more peers and has a source of datagrams of its own; so it is with
# ../shared/bench, where that is. --harness none: by this script alone.
# --results FILE: measures nothing, but makes table and plot of what a run has left (vpn.json, figures.txt).
# --all: the crates' own benches and the whole of lab-bench too, wake-ups at rest, a stream through a member in between, how soon a known member
# is up, streams under rules and with seals on more cores, slow links, and what it costs to know 1,000 members
# (half an hour more). --quick: one short round, to see that it works; with --all only the wake-ups.
# --bin DIR: programs of Strata that are built already.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=3 seconds=4 pings=1000 bin='' out=target/bench quick='' all='' want='' harness=../shared/bench results=''
peers=(veth strata wireguard wireguard-go boringtun gotatun vpncloud nebula)
# What a harness is asked for, unless told; it leaves out what isn't installed, and says so.
known=strata,wireguard-go-2026,quincy-tls,vpncloud-aes128,gotatun,boringtun,nebula-1.11,openvpn,tinc-1.0,fastd,quicktun,n2n-1.3,yggdrasil-0.4
die() { echo "bench: $*" >&2; exit 1; }
has() { command -v "$1" >/dev/null; }
installed() { # whether a peer can be measured here
  case $1 in
    veth) ;;
    strata) [ -n "$bin" ] || has cargo ;;
    wireguard) has wg && ip link add bench-try type wireguard 2>/dev/null && ip link del bench-try ;;
    wireguard-go | boringtun | gotatun) has wg && has "$(program "$1")" ;;
    nebula) has nebula && has nebula-cert ;;
    *) has "$(program "$1")" ;;
  esac
}
program() { case $1 in boringtun) echo boringtun-cli ;; *) echo "$1" ;; esac; }
PEERS_DIR=${PEERS_DIR:-$HOME/.cache/tunnel-peers}
export PATH=$PATH:$PEERS_DIR/bin

while [ $# -gt 0 ]; do
  case $1 in
    --rounds) rounds=$2; shift 2 ;;
    --seconds) seconds=$2; shift 2 ;;
    --peers) want=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --bin) bin=$(realpath "$2"); shift 2 ;;
    --harness) harness=$2; shift 2 ;;
    --results) results=$2; shift 2 ;;
    --all) all=1; shift ;;
    --quick) quick=1 rounds=1 seconds=1 pings=100; shift ;;
    --list) [ ! -e "$harness/bench.py" ] || exec python3 "$harness/bench.py" list; for p in "${peers[@]}"; do installed "$p" 2>/dev/null && echo "$p" || echo "$p: not installed"; done; exit ;;
    *) die "$1 is not known; see the first lines of $0" ;;
  esac
done
report() { # RESULTS: the table on stdout, the plot beside it
  if [ -x "$bin/lab-report" ]; then "$bin/lab-report" "$1" --svg "$out/vpn.svg"
  else cargo run --quiet --locked --release -p tests --bin lab-report -- "$1" --svg "$out/vpn.svg"; fi
}
if [ -n "$results" ]; then
  mkdir -p "$out"
  report "$results" | tee "$out/vpn.md"
  echo "written: $out/vpn.md, $out/vpn.svg" >&2
  exit
fi
[ "$(id -u)" = 0 ] || die "namespaces and devices need root"
[ "$harness" != none ] || harness=''
if [ "$harness" = ../shared/bench ] && [ ! -e "$harness/bench.py" ]; then harness=''; fi
[ -z "$harness" ] || [ -e "$harness/bench.py" ] || die "$harness has no bench.py; --harness none does without"
for tool in ip ping iperf3 awk; do has $tool || die "$tool is missing; install iproute2, iputils-ping and iperf3"; done
[ -z "$want" ] || known=$want
[ -z "$harness" ] || want=strata # whose programs' flows are measured here, whatever measures the tunnels
[ -z "$want" ] || IFS=, read -ra peers <<<"$want"
found=() skipped=()
for p in "${peers[@]}"; do if installed "$p"; then found+=("$p"); else skipped+=("$p"); fi; done
if [ -z "$bin" ]; then
  cargo build --locked --release --workspace --bins
  bin=$PWD/target/release
fi
export PATH=$bin:$PATH
mkdir -p "$out"
raw=$out/figures.txt work=$(mktemp -d /tmp/strata-bench.XXXXXX)
echo "# $(date -u '+%F %H:%M UTC'), $(nproc) × $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), Linux $(uname -r | cut -d- -f1)" >"$raw"

# --- two hosts ---------------------------------------------------------------------------------------------------------------
ns() { echo "sb$$-$1"; }
other() { [ "$1" = a ] && echo b || echo a; }
on() { local side=$1; shift; ip netns exec "$(ns "$side")" "$@"; }
under() { [ "$1" = a ] && echo 10.99.0.1 || echo 10.99.0.2; } # of the veth
inner() { [ "$1" = a ] && echo 10.98.0.1 || echo 10.98.0.2; } # of the tunnel
daemons=()
start() { # SIDE COMMAND…: a daemon that is measured
  local side=$1; shift
  ip netns exec "$(ns "$side")" "$@" >>"$work/log" 2>&1 &
  daemons+=($!)
}
hosts_up() {
  for s in a b; do ip netns add "$(ns $s)"; ip -n "$(ns $s)" link set lo up; done
  ip link add sba$$ netns "$(ns a)" type veth peer name sbb$$ netns "$(ns b)"
  for s in a b; do ip -n "$(ns $s)" addr add "$(under $s)/24" dev sb$s$$; ip -n "$(ns $s)" link set sb$s$$ up; done
}
hosts_down() {
  local pid
  for pid in "${daemons[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${daemons[@]}"; do wait "$pid" 2>/dev/null || true; done
  daemons=()
  for s in a b; do ip netns del "$(ns $s)" 2>/dev/null || true; done
}
trap 'hosts_down; rm -rf "$work"' EXIT
address() { # SIDE DEVICE MTU
  for _ in $(seq 200); do ip -n "$(ns "$1")" link show "$2" >/dev/null 2>&1 && break; sleep 0.01; done
  ip -n "$(ns "$1")" addr add "$(inner "$1")/24" dev "$2"
  ip -n "$(ns "$1")" link set "$2" mtu "$3" up
}

# --- peers: keys and files first (make_), then what is timed (up_) -----------------------------------------------------------
make_veth() { :; }
up_veth() { for s in a b; do ip -n "$(ns $s)" addr add "$(inner $s)/24" dev sb$s$$; done; }

make_strata() { :; }
strata_irm() { local side=$1; shift; on "$side" irm --run-dir "$work/run-$side" "$@"; }
up_strata() {
  for s in a b; do mkdir -p "$work/run-$s"; start $s irmd --run-dir "$work/run-$s"; done
  for s in a b; do
    for _ in $(seq 500); do strata_irm $s status >/dev/null 2>&1 && break; sleep 0.01; done
    strata_irm $s ipcp bootstrap "udp-$s" --type shim-udp --layer net --ip "$(under $s)" --host "ovl-$(other $s)=$(under "$(other $s)")"
  done
  strata_irm b ipcp bootstrap ovl-b --type unicast --layer overlay --prefix "$(inner b)/32"
  strata_irm b layer invite overlay --member ovl-a --prefix "$(inner a)/32" | strata_irm a ipcp enroll ovl-a --type unicast --invite -
  for s in b a; do strata_irm $s vpn up --layer overlay --address "$(inner $s)/24" --dev strata0; done
}

make_wireguard() { for s in a b; do wg genkey | tee "$work/$s.key" | wg pubkey >"$work/$s.pub"; done; }
wg_set() { # SIDE
  on "$1" wg set "wg$1" private-key "$work/$1.key" listen-port 51820 peer "$(cat "$work/$(other "$1").pub")" \
    endpoint "$(under "$(other "$1")"):51820" allowed-ips "$(inner "$(other "$1")")/32"
  address "$1" "wg$1" 1420
}
up_wireguard() { for s in a b; do ip -n "$(ns $s)" link add wg$s type wireguard; wg_set $s; done; }
wg_program() { # COMMAND…: a program for each side, which takes its configuration over a socket that is named after the device
  for s in a b; do
    start $s "$@" wg$s
    for _ in $(seq 300); do [ -S /var/run/wireguard/wg$s.sock ] && break; sleep 0.01; done
    wg_set $s
  done
}
make_wireguard-go() { make_wireguard; }
up_wireguard-go() { WG_PROCESS_FOREGROUND=1 wg_program wireguard-go -f; }
make_boringtun() { make_wireguard; }
up_boringtun() { wg_program boringtun-cli -f --disable-drop-privileges; }
make_gotatun() { make_wireguard; }
up_gotatun() { wg_program gotatun -f --disable-drop-privileges; }

make_vpncloud() { :; }
up_vpncloud() {
  for s in a b; do
    ip -n "$(ns $s)" route replace default via "$(under "$(other $s)")" # it asks for its own address towards the world
    start $s vpncloud -q -t tun -m router -d vpc0 -l "$(under $s):3210" -p bench --no-port-forwarding --algorithm aes128 --no-auto-claim \
      --claim "$(inner $s)/32" -c "$(under "$(other $s)"):3210"
    address $s vpc0 1400
  done
}

make_nebula() {
  (cd "$work" && nebula-cert ca -name bench && for s in a b; do nebula-cert sign -name $s -ip "$(inner $s)/24"; done)
  for s in a b; do
    printf 'pki: {ca: %s/ca.crt, cert: %s/%s.crt, key: %s/%s.key}\nstatic_host_map: {"%s": ["%s:4242"]}\nlighthouse: {am_lighthouse: false}\nlisten: {host: %s, port: 4242}\ncipher: aes\ntun: {dev: neb0, mtu: 1400}\nfirewall: {outbound: [{port: any, proto: any, host: any}], inbound: [{port: any, proto: any, host: any}]}\n' \
      "$work" "$work" $s "$work" $s "$(inner "$(other $s)")" "$(under "$(other $s)")" "$(under $s)" >"$work/$s.yml"
  done
}
up_nebula() { for s in a b; do start $s nebula -config "$work/$s.yml"; done; }

# --- measuring -----------------------------------------------------------------------------------------------------------------
tree() { # the daemons and all that they have started
  local todo=("${daemons[@]}") pid
  while [ ${#todo[@]} -gt 0 ]; do
    pid=${todo[0]} todo=("${todo[@]:1}")
    echo "$pid"
    mapfile -t -O "${#todo[@]}" todo < <(cat /proc/"$pid"/task/*/children 2>/dev/null | tr ' ' '\n' | grep . || true)
  done
}
ticks() { for pid in $(tree); do sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null || true; done | awk '{n += $12 + $13} END {print n + 0}'; }
rss() { for pid in $(tree); do grep VmRSS "/proc/$pid/status" 2>/dev/null || true; done | awk '{n += $2} END {printf "%.0f\n", n / 1024}'; }
note() { echo "$round $peer $1 $2" >>"$raw"; } # a figure; the peer and the round are those of now
tcp() { # STREAMS [-R]: Gbit/s that the receiver counted
  on a iperf3 -c "$(inner b)" -t "$seconds" -P "$1" ${2:+"$2"} -f m 2>/dev/null |
    awk '/receiver/ && (!/SUM/ || s == "") {one = $7} /SUM.*receiver/ {s = $6} END {r = s != "" ? s : one; if (r == "") exit 1; printf "%.3f\n", r / 1000}'
}
rtt() { # NAME: p50 and p99 of pings now, ms
  on a ping -i 0.002 -c "$pings" "$(inner b)" 2>/dev/null | sed -n 's/.*time=\([0-9.]*\) ms/\1/p' | sort -n >"$work/rtt" || true
  note "$1_p50" "$(awk '{v[NR] = $1} END {print NR ? v[int((NR - 1) * .5) + 1] : "-"}' "$work/rtt")"
  note "$1_p99" "$(awk '{v[NR] = $1} END {print NR ? v[int((NR - 1) * .99) + 1] : "-"}' "$work/rtt")"
}
udp() { # BYTES: the most datagrams a second, in thousands, of which less than 1 % are lost; in steps of a quarter
  local size=$1 kpps=10 best=0 lost
  while :; do
    lost=$(on a iperf3 -u -c "$(inner b)" -l "$size" -b $((kpps * size * 8))k -t 1 2>/dev/null |
      sed -n 's/.*(\(.*\)%).*receiver.*/\1/p' | tail -1)
    awk -v lost="${lost:-100}" 'BEGIN {exit !(lost < 1)}' || break
    best=$kpps kpps=$((kpps * 5 / 4))
    [ $kpps -lt 4000 ] || break
  done
  echo $best
}
measure() {
  local before begin now
  rm -rf "$work"
  mkdir -m 700 "$work"
  hosts_up
  "make_$peer" >>"$work/log" 2>&1
  begin=$(date +%s%N)
  "up_$peer" >>"$work/log" 2>&1 || { tail -5 "$work/log" >&2; echo "bench: $peer does not come up" >&2; return 1; }
  until on a ping -c 1 -W 0.2 "$(inner b)" >/dev/null 2>&1; do
    now=$(date +%s%N)
    [ $((now - begin)) -lt 20000000000 ] || { tail -5 "$work/log" >&2; echo "bench: nothing comes through $peer" >&2; return 1; }
  done
  note up_ms $((($(date +%s%N) - begin) / 1000000))
  if [ -n "$harness" ]; then
    programs
    return
  fi
  ip netns exec "$(ns b)" iperf3 -s >/dev/null 2>&1 & local server=$!
  for _ in $(seq 100); do on b ss -ltn 2>/dev/null | grep -q :5201 && break; sleep 0.02; done
  rtt rtt
  before=$(ticks)
  local rate; rate=$(tcp 1); note tcp_ab "$rate"
  note cpu_s_per_gb "$(awk -v t=$(($(ticks) - before)) -v r="$rate" -v s="$seconds" 'BEGIN {printf "%.2f", t / 100 / (r * s / 8)}')"
  note tcp_ba "$(tcp 1 -R)"
  note tcp4_ab "$(tcp 4)"
  ip netns exec "$(ns a)" iperf3 -c "$(inner b)" -t $((pings / 400 + 2)) >/dev/null 2>&1 & local load=$!
  sleep 1
  rtt rtt_load
  wait $load || true
  note udp64_kpps "$(udp 64)"
  note rss_mb "$(rss)"
  [ "$peer" != strata ] || programs
  kill $server; wait $server 2>/dev/null || true
}
programs() { # flows of programs, in the same hosts
  local server args
  ip netns exec "$(ns b)" irm --run-dir "$work/run-b" perf bench --layer overlay --server >/dev/null 2>&1 & server=$!
  strata_irm b wait name bench >/dev/null
  for args in "raw 1400 1" "raw 1400 4" "raw 64 1" "data 1400 1"; do
    read -r qos size flows <<<"$args"
    strata_irm a --json perf bench --layer overlay -t "$seconds" -s "$size" --qos "$qos" --flows "$flows" >"$work/perf"
    # What stands two blanks in is of all flows together.
    value() { awk -v key="\"$1\":" '/^  "/ && $1 == key {gsub(",", "", $2); print $2; exit}' "$work/perf"; }
    note "flow_${qos}_${size}_${flows}" "$(awk -v r="$(value gbit_per_s)" 'BEGIN {printf "%.2f", r}')"
    note "flow_${qos}_${size}_${flows}_kpps" "$(awk -v n="$(value sdus_per_s)" 'BEGIN {printf "%.0f", n / 1000}')"
  done
  kill $server; wait $server 2>/dev/null || true
}

# --- what came of it -----------------------------------------------------------------------------------------------------------
cell() { # PEER FIGURE: the median, and the least and the most where there are several
  awk -v peer="$1" -v key="$2" '$2 == peer && $3 == key && $4 != "-" {print $4}' "$raw" | sort -n |
    awk '{v[NR] = $1} END {if (!NR) print "–"; else if (NR == 1) print v[1]; else printf "%s (%s–%s)\n", v[int((NR + 1) / 2)], v[1], v[NR]}'
}
tables() {
  echo "## $(date +%F), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
  echo
  echo "\`bash tests/bench.sh\`, TCP for ${seconds} s; load of the machine before: $load0. Not installed, so not measured: ${skipped[*]:-none}."
  echo
  report "$measured"
  echo
  [[ " ${found[*]} " != *" strata "* ]] || {
    echo "| programs' flows between the same hosts, received | Gbit/s | kSDU/s |"
    echo "|---|--:|--:|"
    for args in "raw 1400 1" "raw 1400 4" "raw 64 1" "data 1400 1"; do
      read -r qos size flows <<<"$args"
      echo "| \`irm perf --qos $qos -s $size --flows $flows\` | $(cell strata "flow_${qos}_${size}_$flows") | $(cell strata "flow_${qos}_${size}_${flows}_kpps") |"
    done
    echo
  }
}

load0=$(cut -d' ' -f1 /proc/loadavg)
measured=$raw
[ -z "$harness" ] || {
  measured=$out/vpn.json
  STRATA_BIN=$bin PEERS_DIR=$PEERS_DIR python3 "$harness/bench.py" run --peers-from "$harness/strata.py" --peers "$known" --rounds "$rounds" \
    --tests tcp,rtt,udp,rttload --tcp-secs "$seconds" --tcp4-secs "$seconds" --pings "$pings" ${quick:+--udp-secs 0.1 --quiet-wait 0} \
    --out "$measured" >"$out/harness.md"
}
[ ${#skipped[@]} -eq 0 ] || echo "not installed, so not measured: ${skipped[*]}" >&2
for round in $(seq "$rounds"); do
  for peer in "${found[@]}"; do
    echo "round $round: $peer" >&2
    measure || echo "$round $peer failed -" >>"$raw"
    hosts_down
  done
done
{
  tables
  shown() { # WHAT COMMAND…: what a command says
    local what=$1; shift
    printf '%s: `%s`\n\n```\n' "$what" "$*"
    "$@" 2>>"$out/log" || echo "failed; see $out/log"
    printf '```\n\n'
  }
  [ -n "$quick" ] || {
    # On two cores it depends on where the two ends happen to run, by a factor of eight.
    cargo bench --locked --workspace --bench local --no-run 2>>"$out/log"
    shown "A direct flow of one host beside a bare \`SOCK_SEQPACKET\` pair, both on one core" taskset -c 1 cargo bench --locked --workspace --bench local
    shown "Instructions a packet" bash .ci/counts
  }
  [ -z "$all" ] || shown "At rest: memory, CPU and wake-ups of each process" "$bin/lab-bench" rest
  [ -z "$all" ] || [ -n "$quick" ] || {
    shown "Sealing and handshakes" cargo bench --locked --workspace --bench crypt
    shown "Flows asked for, accepted, ended" cargo bench --locked --workspace --bench allocate
    shown "Routing among 10,000 members" cargo bench --locked -p layer --features sim --bench route
    shown "Three hosts in a line" "$bin/lab-bench"
    shown "The VPN through a member in between, and up of a known member (\`up_ms\`)" "$bin/lab-bench" vpn
    shown "Streams under rules, with seals on more cores, and a ping beside streams" "$bin/lab-bench" streams
    shown "Slow links: what waits behind a stream, behind datagrams, and beside a program" "$bin/lab-bench" narrow
    shown "1,000 members known" "$bin/lab-bench" known
  }
} | tee "$out/tables.md"
echo "written: $out/tables.md, $out/vpn.svg, $measured" >&2

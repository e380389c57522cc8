#!/bin/sh
# Runs each fuzzer given for FUZZ_SECONDS, two at a time, and sums up: the last line is
# `N passed, M failed`.  What it learns stays in PROGRAM.corpus for the next run; an input that
# breaks a promise is left beside the program, and is run again by `PROGRAM FILE`.
dir=$(dirname "$1")
seconds=${FUZZ_SECONDS:-10}
trap 'kill $(jobs -p) 2>/dev/null; exit 1' HUP INT TERM
run() {
  mkdir -p "$1.corpus"
  timeout -k 10 $((seconds + 60)) "$1" -max_total_time="$seconds" \
    -timeout=10 -rss_limit_mb=1024 -max_len=1024 -len_control=20 -artifact_prefix="$1-" \
    "$1.corpus" >"$1.log" 2>&1
  echo $? >"$1.status"
}
for program; do
  run "$program" &
  [ -z "$other" ] || wait "$other"
  other=$!
done
wait
passed=0 failed=0
for program; do
  if [ "$(cat "$program.status")" = 0 ]; then
    echo "$(basename "$program"): $(sed -n 's/^Done \(.*\)/\1/p' "$program.log")"
    passed=$((passed + 1))
  else
    grep -aE '^FAILED|ERROR|Assertion|runtime error|Test unit written' "$program.log"
    tail -n 30 "$program.log"
    echo "FAILED $program"
    failed=$((failed + 1))
  fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]

#!/bin/sh
# Runs each test program given, prints what it says, and sums up: the last line
# is `N passed, M failed`.  A program that dies counts as one failure.
shm=/dev/shm
[ -w "$shm" ] || shm=/tmp
FM_SCRATCH=$(mktemp -d "$shm/fm-XXXXXX") || exit 1
export FM_SCRATCH
trap 'rm -rf "$FM_SCRATCH"' EXIT
trap 'exit 1' HUP INT TERM
passed=0 failed=0
for program; do
  # To a file, and not to a pipe that what it may leave behind would keep open.
  timeout -k 5 100 "$program" >"$FM_SCRATCH/out" 2>&1
  status=$?
  out=$(cat "$FM_SCRATCH/out")
  printf '%s\n' "$out"
  line=$(printf '%s\n' "$out" | sed -n 's/^[a-z_]*: \([0-9]*\) passed, \([0-9]*\) failed.*/\1 \2/p' | tail -n 1)
  set -- ${line:-0 0}
  passed=$((passed + $1))
  failed=$((failed + $2))
  if [ "$status" -ne 0 ] && [ "$2" -eq 0 ]; then
    echo "FAILED $program: exit status $status"
    failed=$((failed + 1))
  fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]

#!/bin/sh
# Runs the test programs given, two at a time (most of what they do is to wait), prints what each
# says, and sums up: the last line is `N passed, M failed`.  A program that dies counts as one
# failure.
shm=/dev/shm
[ -w "$shm" ] || shm=/tmp
FM_SCRATCH=$(mktemp -d "$shm/fm-XXXXXX") || exit 1
export FM_SCRATCH
trap 'rm -rf "$FM_SCRATCH"' EXIT
trap 'exit 1' HUP INT TERM
# To a file, and not to a pipe that what it may leave behind would keep open.
printf '%s\n' "$@" | xargs -n 1 -P 2 sh -c '
  out=$FM_SCRATCH/$(basename "$1")
  timeout -k 5 200 "$1" >"$out.out" 2>&1
  echo $? >"$out.status"' run
passed=0 failed=0
for program; do
  out=$FM_SCRATCH/$(basename "$program")
  status=$(cat "$out.status")
  cat "$out.out"
  line=$(sed -n 's/^[a-z_]*: \([0-9]*\) passed, \([0-9]*\) failed.*/\1 \2/p' "$out.out" | tail -n 1)
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

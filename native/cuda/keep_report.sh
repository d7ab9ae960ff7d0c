#!/bin/sh
# Launches nvcc and keeps what ptxas says of every kernel beside the object (<object>.ptxas), so that a build in which nothing changed
# still knows the resources of all kernels: scripts/check_cuda.mjs reads them. The rest goes to the screen.
object=
before=
for word; do
  [ "$before" = -o ] && object=$word
  before=$word
done
"$@" 2>"$object.ptxas"
status=$?
grep -vE '^ptxas info|^ +[0-9]+ bytes (stack frame|cumulative)' "$object.ptxas" >&2
exit $status

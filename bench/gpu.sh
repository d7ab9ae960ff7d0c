#!/bin/sh
# bench/gpu.sh [--device cuda|cuda-emu] [--parts doctor,test,sanitizer,ceilings,demo,step,bench] [--ops 'linear adamw'] [--rounds n] [--dtype both]
#
# Everything that is done on a machine with a GPU, in one go: unpacks what bench/gpu_pack.sh made, asks the doctor, runs the tests that
# know devices (ops, losses, optimizers, memory bank, a small EM3), compute-sanitizer on small shapes, the device's ceilings, the
# demo in float32 and bf16, one whole training step and then every kernel with their peers in turn, and prints one short table. JSON lines and logs go to $OUT (default
# .carry/out). Needs python3 with PyTorch for ceilings and peers, nothing else. With --device cuda-emu the whole way runs anywhere, on
# tiny shapes, and its times mean nothing.
set -u
cd "$(dirname "$0")/.."
device=cuda
parts=doctor,test,sanitizer,ceilings,demo,step,bench
ops='crossAttention loraLinear infoNce memoryBank linear rows embeddingBag adamw'
rounds=
dtype=bfloat16
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=$2 ;;
    --parts) parts=$2 ;;
    --ops) ops=$2 ;;
    --rounds) rounds=$2 ;;
    --dtype) dtype=$2 ;;
    *) echo "gpu.sh: unknown option $1" >&2; exit 64 ;;
  esac
  shift 2
done
out=${OUT:-.carry/out}
mkdir -p "$out"
out=$(cd "$out" && pwd)
run=.carry/run
python=${GALAGO_BENCH_PYTHON:-python3}
peers=$(pwd)/bench/peers/gpu
has() { case ",$parts," in *",$1,"*) return 0 ;; *) return 1 ;; esac; }
failures=
failed() { failures="$failures $1"; echo "FAILED: $1"; }

if [ ! -f .carry/galago.tar.xz ]; then
  echo "gpu.sh: there is no .carry/galago.tar.xz; bench/gpu_pack.sh makes it on the machine that builds" >&2
  exit 66
fi
# unpacked once per archive
if [ ! -f "$run/unpacked" ] || [ .carry/galago.tar.xz -nt "$run/unpacked" ]; then
  rm -rf "$run" && mkdir -p "$run"
  tar -xJf .carry/galago.tar.xz -C "$run" 2>/dev/null || "$python" -c "import tarfile; tarfile.open('.carry/galago.tar.xz').extractall('$run')" || exit 1
  touch "$run/unpacked"
fi
cp bench/gpu/results_table.mjs "$run/"
cd "$run" || exit 1
run_folder=$(pwd)
galago() { ./node ts/src/cli/main.js "$@"; }
if [ "$device" = cuda ]; then
  peer_device=cuda
  parallel=4
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv,noheader 2>/dev/null
else
  peer_device=cpu
  parallel=2
  rounds=${rounds:-1}
fi
echo "commit $(cat commit), $(date -u +%Y-%m-%d)"
[ -n "$rounds" ] && effort="--rounds $rounds" || effort=

if has doctor; then
  echo "== doctor"
  galago doctor 2>&1 | tee "$out/doctor.txt"
fi

if has test; then
  echo "== tests on $device"
  GALAGO_TEST_DEVICE=$device ./node run_tests.mjs --parallel=$parallel ts/test/*/*.test.js >"$out/tests.txt" 2>&1 || failed tests
  grep -A 12 '^FAIL' "$out/tests.txt" | cut -c1-200 | head -60
  tail -1 "$out/tests.txt"
fi

if has sanitizer; then
  echo "== compute-sanitizer"
  if [ "$device" != cuda ] || ! command -v compute-sanitizer >/dev/null; then
    echo 'compute-sanitizer: skipped, it needs a GPU and its toolkit'
  else
    for tool in memcheck racecheck initcheck synccheck; do
      # one round of every case at its smallest: the sanitizer slows kernels by factors of ten and more
      if timeout 150 compute-sanitizer --tool $tool --target-processes all --error-exitcode 9 --print-limit 20 ./node ts/src/cli/main.js bench \
        --device "$device" --size tiny --rounds 1 --dtype both >"$out/$tool.txt" 2>&1; then
        echo "$tool: clean"
      else
        failed "$tool (status $?)"
        grep '=========' "$out/$tool.txt" | head -15
      fi
    done
  fi
fi

if has ceilings; then
  echo "== ceilings"
  # shellcheck disable=SC2086
  "$python" -B "$peers/ceilings.py" --device $peer_device $effort >"$out/ceilings.jsonl" 2>"$out/ceilings.txt" || failed ceilings
  cat "$out/ceilings.txt"
fi

if has demo; then
  echo '== the demo'
  if [ "$device" != cuda ]; then
    echo 'demo: skipped, it takes hours in the emulator'
  else
    for precision in float32 bf16; do
      galago demo --device cuda --train.precision=$precision --run-dir "demo-$precision" --json >"$out/demo-$precision.txt" 2>"$out/demo-$precision.log" || failed "demo $precision"
      tail -12 "$out/demo-$precision.log" | cut -c1-160
      grep -v '^{' "$out/demo-$precision.txt"
    done
  fi
fi

if has step; then
  echo '== one whole training step'
  rm -rf step && mkdir step
  : >"$out/step.jsonl"
  ./node bench/gpu/train_step.js "$device" step ${rounds:-20} >>"$out/step.jsonl" 2>"$out/step.txt" || failed step
  # shellcheck disable=SC2086
  "$python" -B "$peers/train_step.py" "$run_folder/step" --device $peer_device --rounds ${rounds:-20} >>"$out/step.jsonl" 2>>"$out/step.txt" || failed 'peer of step'
  # once more, so that a slow minute of the machine does not count for one side alone
  [ "$device" != cuda ] || ./node bench/gpu/train_step.js "$device" step ${rounds:-20} >>"$out/step.jsonl" 2>>"$out/step.txt" || failed step
  cut -c1-160 "$out/step.txt" | head -5
fi

if has bench; then
  echo "== kernels and peers in turn"
  : >"$out/bench.jsonl"
  : >"$out/bench.txt"
  for op in $ops; do
    names=$op
    peer=$(printf %s "$op" | sed 's/\([A-Z]\)/_\1/g' | tr 'A-Z' 'a-z')
    [ "$op" = rows ] && names='layerNorm rmsNorm normalize gelu silu dropout bceWithLogits' && peer=row_ops
    # shellcheck disable=SC2086
    galago bench $names --device "$device" --dtype "$dtype" --list --json >cases.jsonl
    # twice, so that a slow minute of the machine does not count for one side alone
    for _ in 1 2; do
      # shellcheck disable=SC2086
      galago bench $names --device "$device" --dtype "$dtype" $effort --json >>"$out/bench.jsonl" 2>>"$out/bench.txt" || failed "bench $op"
      # shellcheck disable=SC2086
      "$python" -B "$peers/$peer.py" --device $peer_device $effort <cases.jsonl >>"$out/bench.jsonl" 2>>"$out/bench.txt" || failed "peers of $op"
    done
  done
  sort -u "$out/bench.txt" | grep -v '^$' | cut -c1-160 | head -20
fi
./node results_table.mjs "$out" | tee "$out/table.md"
[ -z "$failures" ] || { echo "gpu: failed:$failures"; exit 1; }
echo 'gpu: everything ran'

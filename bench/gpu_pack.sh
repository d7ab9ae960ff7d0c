#!/bin/sh
# bench/gpu_pack.sh [--device cuda|cuda-emu] [--no-build]: packs what bench/gpu.sh needs on a machine with a GPU but without Node,
# compiler and network: .carry/galago.tar.xz with Node, the compiled library, its tests, their packages and the CUDA module for
# compute capability 9.0. With cuda-emu the emulator's module instead, to try the whole way on any machine.
set -eu
cd "$(dirname "$0")/.."
device=cuda
build=yes
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=$2; shift 2 ;;
    --no-build) build=no; shift ;;
    *) echo "gpu_pack.sh: unknown option $1" >&2; exit 64 ;;
  esac
done
pack=.carry/pack
mkdir -p "$pack/build/Release"
if [ $build = yes ]; then
  npm run --silent build
  if [ $device = cuda-emu ]; then
    npm run --silent build:emu
  else
    # a build of its own: the architecture is another one than in daily work
    npx cmake-js configure -O .carry/cmake --CDGALAGO_CUDA=ON --CDGALAGO_CUDA_ARCHITECTURES="${GALAGO_GPU_ARCHITECTURES:-90-real}"
    npx cmake-js build -O .carry/cmake -p 2 --target galago_cuda
  fi
fi
rm -rf "$pack/ts" "$pack/bench"
npx tsc -p bench/gpu/tsconfig.json
cp package.json "$pack/"
cp build/Release/galago.node "$pack/build/Release/"
rm -f "$pack"/build/Release/*.so
if [ $device = cuda-emu ]; then
  cp build/Release/galago_cuda_emu.so "$pack/build/Release/"
else
  cp .carry/cmake/Release/galago_cuda.so "$pack/build/Release/"
fi
node bench/gpu/copy_packages.mjs "$pack/node_modules"
cp bench/gpu/run_tests.mjs "$pack/"
if [ ! -f "$pack/node" ]; then cp "$(command -v node)" "$pack/node" && strip "$pack/node" 2>/dev/null || true; fi
git rev-parse --short HEAD >"$pack/commit"
tar -cf - -C "$pack" . | xz -T2 -"${GALAGO_PACK_LEVEL:-6}" >.carry/galago.tar.xz
bytes=$(stat -c %s .carry/galago.tar.xz)
echo "gpu_pack: .carry/galago.tar.xz has $((bytes / 1024)) KiB"
[ "$bytes" -lt $((60 * 1024 * 1024)) ] || { echo "gpu_pack: more than 60 MiB" >&2; exit 1; }

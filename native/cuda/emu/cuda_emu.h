// Lets g++ compile the .cu files of native/cuda, unchanged, for a CUDA device that is the host's processor: the device `cuda-emu`.
//
//   types.h       qualifiers, vector types, bfloat16
//   block.h       how a block's threads run, wait and share memory; faults; what instructions' bodies are made of
//   async.h       what runs beside the threads: bulk copies, mbarrier, tensor maps, wgmma
//   intrinsics.h  CUDA's device functions
//   runtime.h     CUDA's runtime API over host memory; launch; controls for tests
//
// It proves logic: indices, barriers, masks, copies, streams. It says nothing about speed, registers or a real device's memory model.
#pragma once
#include "async.h"
#include "block.h"
#include "intrinsics.h"
#include "runtime.h"

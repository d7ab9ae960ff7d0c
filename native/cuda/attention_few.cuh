// cross_attention for few queries per item, in bfloat16: see cross_attention_few.cu. Each returns false for a call it does not take.
#pragma once
#include "attention_items.cuh"

namespace galago::cuda::attention::few {

bool forward(const Call& call, const bfloat16* q, const bfloat16* k, const bfloat16* v, bfloat16* out, float* lse);
// dq, dk and dv may be null. With shared queries dq goes to `partial` (chunks, Nq, H, D), to be summed over the chunks.
bool backward(const Call& call, const Chunks& chunks, const bfloat16* q, const bfloat16* k, const bfloat16* v, const bfloat16* out,
              const float* lse, const bfloat16* dout, bfloat16* dq, bfloat16* dk, bfloat16* dv, float* partial);

}  // namespace galago::cuda::attention::few

// The list of kernels: one row each. `?` marks an optional tensor. Checks and TypeScript declarations follow from the C++ type.
#include "bind.h"

namespace galago {

#ifdef GALAGO_WITH_CUDA
#define KERNEL(function, names) bind(env, exports, #function, names, cpu::function, cuda::function)
#else
#define KERNEL(function, names) bind(env, exports, #function, names, cpu::function, decltype (&cpu::function)(nullptr))
#endif

void bind_kernels(Napi::Env env, Napi::Object exports) {
  declarations().clear();
  KERNEL(activation_forward, "x out kind");
  KERNEL(activation_backward, "x out dout dx kind");

  KERNEL(add_same, "a b out");

  // adamw

  // batch_norm

  // bce_with_logits

  // concat

  // cosine_similarity

  // cross_attention

  // dice

  // dropout

  // elementwise

  // embedding

  // embedding_bag

  KERNEL(fill, "out value");
  KERNEL(copy, "x out");

  // gather_rows

  // info_nce

  // layer_norm

  // linear

  // lora_linear

  // matmul

  // normalize

  // patch_embedding

  // prelu

  // reduce

  // rms_norm

  // row_sparse

  // segment_softmax

  // segment_sum

  // softmax

  // sort_descending

  // top_k

  // unique
}

}  // namespace galago

// The list of kernels: one row each. `?` marks an optional tensor. Checks and TypeScript declarations follow from the C++ type.
#include "bind.h"

namespace galago {

#ifdef GALAGO_WITH_CUDA
#define KERNEL(function, names) bind_kernel(env, exports, #function, names, cpu::function, cuda::function)
#else
#define KERNEL(function, names) bind_kernel(env, exports, #function, names, cpu::function, decltype (&cpu::function)(nullptr))
#endif

void bind_kernels(Napi::Env env, Napi::Object exports) {
  declarations().clear();
  KERNEL(activation_forward, "x out kind");
  KERNEL(activation_backward, "x out dout dx kind");

  KERNEL(add_same, "a b out");

  // adamw

  // batch_norm

  KERNEL(bce_with_logits_forward, "logits labels weights? loss");
  KERNEL(bce_with_logits_backward, "logits labels weights? dloss dlogits");

  KERNEL(concat_forward, "inputs out axis");
  KERNEL(concat_backward, "dout dinputs axis");

  // cosine_similarity

  KERNEL(cross_attention_forward, "q k v offsets q_offsets? mask? out lse causal scale");
  KERNEL(cross_attention_backward, "q k v offsets q_offsets? mask? out lse dout dq? dk? dv? causal scale");

  // dice

  // dropout

  KERNEL(affine, "x out scale shift");
  KERNEL(binary, "a b out kind");
  KERNEL(unary_forward, "x out kind");
  KERNEL(unary_backward, "x out dout dx kind");

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

  KERNEL(reduce_sum, "x out scale");

  // rms_norm

  // row_sparse

  // segment_softmax

  // segment_sum

  KERNEL(slice_forward, "x out axis start");
  KERNEL(slice_backward, "dout dx axis start");

  // softmax

  // sort_descending

  // top_k

  KERNEL(transpose, "x out axes");

  // unique
}

// The unions of strings that enumerations are in TypeScript.
template <class E>
static std::string union_type() {
  std::string text = std::string("export type ") + EnumNames<E>::type + " =";
  for (size_t i = 0; i < std::size(EnumNames<E>::names); i++) text += (i ? " | '" : " '") + std::string(EnumNames<E>::names[i]) + "'";
  return text + ";\n";
}

std::string enumerations() { return union_type<Activation>() + union_type<Binary>() + union_type<Unary>(); }

}  // namespace galago

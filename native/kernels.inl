// THE CONTRACT. Included once inside `namespace cpu` and once inside `namespace cuda`: every backend has the same entry points.
// const Tensor& = input, Tensor& = output (overwritten, unless the comment says that it accumulates or updates in place).
// Floating tensors of one call share one dtype (float32 or float64); indices and offsets are int32. Optional tensors (a `?` in the
// table row) may be undefined. Formula first, then shapes. Sections are in alphabetical order of their op.

// ---- activation: out = f(x) element by element; dx = dout f'(x). x, out, dout, dx (any shape). gelu is the erf form.
void activation_forward(const Tensor& x, Tensor& out, Activation kind);
void activation_backward(const Tensor& x, const Tensor& out, const Tensor& dout, Tensor& dx, Activation kind);

// ---- add_same: out = a + b, same shape: how the tape adds gradients.
void add_same(const Tensor& a, const Tensor& b, Tensor& out);

// ---- adamw

// ---- batch_norm

// ---- bce_with_logits

// ---- concat

// ---- cosine_similarity

// ---- cross_attention

// ---- dice

// ---- dropout

// ---- elementwise

// ---- embedding

// ---- embedding_bag

// ---- fill: out = value, any dtype. copy: out = x, same dtype and size.
void fill(Tensor& out, double value);
void copy(const Tensor& x, Tensor& out);

// ---- gather_rows

// ---- info_nce

// ---- layer_norm

// ---- linear

// ---- lora_linear

// ---- matmul

// ---- normalize

// ---- patch_embedding

// ---- prelu

// ---- reduce

// ---- rms_norm

// ---- row_sparse (optimizers on the touched rows of a table)

// ---- segment_softmax

// ---- segment_sum

// ---- softmax

// ---- sort_descending

// ---- top_k

// ---- unique

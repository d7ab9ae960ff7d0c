// THE CONTRACT. Included once inside `namespace cpu` and once inside `namespace cuda`: every backend has the same entry points.
// const Tensor& = input, Tensor& = output (overwritten, unless the comment says that it accumulates or updates in place).
// Floating tensors of one call share one dtype: float32, float64 (cpu only) or bfloat16 (not on cpu). `wide` ones are float32
// where the others are bfloat16: saved statistics (mean, rstd, norm, lse, scores, log sums), losses, and what a section says. Indices and offsets are int32. Optional tensors (a `?`
// in the table row) may be undefined. Formula first, then shapes. Sections are in alphabetical order of their op.

// ---- activation: out = f(x) element by element; dx = dout f'(x). x, out, dout, dx (any shape). gelu is the erf form.
void activation_forward(const Tensor& x, Tensor& out, Activation kind);
void activation_backward(const Tensor& x, const Tensor& out, const Tensor& dout, Tensor& dx, Activation kind);

// ---- add_same: out = a + b, same shape: how the tape adds gradients.
void add_same(const Tensor& a, const Tensor& b, Tensor& out);

// ---- adamw, in place for every i of the lists: step += 1, g = clip grad, m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g g,
// param = (1 - rate decay) param - rate mhat / (sqrt(vhat) + eps). A clip that is not finite writes nothing: the step is skipped.
//   params, grads, m, v (any shape)   steps (1) int32   clip (1) float64
void adamw(TensorList& params, const TensorList& grads, TensorList& m, TensorList& v, TensorList& steps, const Tensor& clip,
           double learning_rate, double weight_decay, double beta1, double beta2, double eps);
// gradient_norm: Euclidean norm of all dense gradients and of the first counts[i] rows of rows[i]; partial sums in float64 per fixed
// chunk. clip_factor: factor = min(1, max_norm / (norm + 1e-6)); of a norm that is not finite NaN, and skipped += 1.
//   grads (any shape)   rows (capacity, D)   counts, skipped (1) int32   norm, factor (1) float64
void gradient_norm(const TensorList& grads, const TensorList& rows, const TensorList& counts, Tensor& norm);
void clip_factor(const Tensor& norm, Tensor& factor, Tensor& skipped, double max_norm);

// ---- batch_norm: z = (x - mean) rstd, out = weight z + bias; mean, rstd = 1 / sqrt(variance + eps) of each column over the batch when
// `training`, else from the running values. In training running += momentum (batch - running), with the unbiased variance.
// dx = weight rstd (dout - [mean(dout) + z mean(dout z)] if training), dweight = sum dout z, dbias = sum dout.
//   x, out, dout, dx (B, D); weight, bias, running_mean, running_var (updated in place), mean, rstd (D)
void batch_norm_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& running_mean, Tensor& running_var, Tensor& out,
                        Tensor& mean, Tensor& rstd, bool training, double momentum, double eps);
void batch_norm_backward(const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& rstd, const Tensor& dout, Tensor& dx,
                         Tensor& dweight, Tensor& dbias, bool training);

// ---- bce_with_logits: loss = sum_i w_i (max(x,0) - x y + log1p(e^-|x|)) / W, W = sum w (N without weights), 0 if W = 0;
//   dlogits = dloss (sigmoid(x) - y) w / W.   logits, labels, weights, dlogits (N)   loss, dloss ()
void bce_with_logits_forward(const Tensor& logits, const Tensor& labels, const Tensor& weights, Tensor& loss);
void bce_with_logits_backward(const Tensor& logits, const Tensor& labels, const Tensor& weights, const Tensor& dloss, Tensor& dlogits);

// ---- cast: out = x in the dtype of out, one of them float32 and the other bfloat16. Rounds to nearest, ties to even; NaN becomes 0x7fff.
//   x, out (any shape)
void cast(const Tensor& x, Tensor& out);

// ---- concat: inputs, equal but for `axis`, side by side along it; backward cuts dout into the inputs' shapes.
void concat_forward(const TensorList& inputs, Tensor& out, int64_t axis);
void concat_backward(const Tensor& dout, TensorList& dinputs, int64_t axis);

// ---- content_table: the last encoded vector of each item. read: row of keys[i] from `staged` if it was staged in this step (age 0),
//   else from the table (age = now - step of its last write), else zero (age -1: unknown key or never written).
//   commit: writes the staged rows in place with step `now`, unless `factor` is given and not positive (NaN: a skipped step); rows that are zero or not
//   finite are refused and counted.   rows (V, D)   steps (V) int32, -1 = never   keys (T) int32, negative = none
//   staged_keys (U) int32 ascending, distinct   staged (U, D)   out (T, D)   age (T) int32   refused (1) int32   factor (1) float64
void content_table_read(const Tensor& rows, const Tensor& steps, const Tensor& keys, const Tensor& staged_keys, const Tensor& staged,
                        Tensor& out, Tensor& age, int64_t now);
void content_table_commit(Tensor& rows, Tensor& steps, Tensor& refused, const Tensor& staged_keys, const Tensor& staged,
                          const Tensor& factor, int64_t now);

// ---- cosine_similarity: out_t = d_b.h_t / (max(|d_b|, eps) max(|h_t|, eps)) for t in offsets[b] .. offsets[b+1); 0 where mask < 0.
//   d, dd (B, D)   h, dh (T, D)   offsets (B+1)   mask (T) int32   out, dout (T)   dd, dh may be undefined: not wanted
void cosine_similarity_forward(const Tensor& d, const Tensor& h, const Tensor& offsets, const Tensor& mask, Tensor& out, double eps);
void cosine_similarity_backward(const Tensor& d, const Tensor& h, const Tensor& offsets, const Tensor& mask, const Tensor& out,
                                const Tensor& dout, Tensor& dd, Tensor& dh, double eps);

// ---- cross_attention: item b owns query rows q_offsets[b] .. q_offsets[b+1) (without q_offsets: Nq rows each) and keys
// offsets[b] .. offsets[b+1). s_ij = scale q_i.k_j, minus infinity where hidden; lse_i = log sum_j e^s_ij; p_ij = e^(s_ij - lse_i);
// out_i = sum_j p_ij v_j. With delta_i = dot(out_i, dout_i): ds_ij = p_ij (dout_i.v_j - delta_i), dv_j = sum_i p_ij dout_i,
// dq_i = scale sum_j ds_ij k_j, dk_j = scale sum_i ds_ij q_i. A row without keys: out 0, lse -infinity, gradients 0.
//   q, out, dout (Tq, H, D) or (B, Nq, H, D); q, dq also (1, Nq, H, D), shared by all items; k, v, dk, dv (T, Hkv, D), Hkv divides H
//   offsets, q_offsets (B+1)   mask (T) int32, negative hides the key   causal: the last query of an item sees its last key, the one
//   before it one key less   lse (H, Tq)   dq, dk, dv may be undefined: not wanted
void cross_attention_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& offsets, const Tensor& q_offsets,
                             const Tensor& mask, Tensor& out, Tensor& lse, bool causal, double scale);
void cross_attention_backward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& offsets, const Tensor& q_offsets,
                              const Tensor& mask, const Tensor& out, const Tensor& lse, const Tensor& dout, Tensor& dq, Tensor& dk,
                              Tensor& dv, bool causal, double scale);

// ---- dice: p = sigmoid(z), z as in batch_norm without weight and bias; out = p x + alpha (1 - p) x. dz = dout x (1 - alpha) p (1 - p);
// dx = dout (p + alpha (1 - p)) + rstd (dz - [mean(dz) + z mean(dz z)] if training); dalpha = sum dout (1 - p) x.
//   x, out, dout, dx (B, D); alpha, dalpha, running_mean, running_var (updated in place), mean, rstd (D)
void dice_forward(const Tensor& x, const Tensor& alpha, Tensor& running_mean, Tensor& running_var, Tensor& out, Tensor& mean, Tensor& rstd,
                  bool training, double momentum, double eps);
void dice_backward(const Tensor& x, const Tensor& alpha, const Tensor& mean, const Tensor& rstd, const Tensor& dout, Tensor& dx,
                   Tensor& dalpha, bool training);

// ---- dropout: out_i = x_i / keep where r_i < 65536 keep, else 0; keep = round(65536 (1 - p)) / 65536, at least one step. r_i is the 16-bit
// half i mod 8 (word by word, low half first) of the Philox block with counter (i / 8, its high word, call, step) and key seed.
// Backward is the same call on dout.   x, out (any shape)
void dropout(const Tensor& x, Tensor& out, double p, int64_t seed, int64_t step, int64_t call);

// ---- elementwise: affine: out = scale x + shift. binary: out = a op b, shapes broadcast from the right (equal or 1) to out's.
//   unary: out = f(x), dx = dout f'(x); the derivative of sqrt and log at 0 is infinite, of abs 0.
void affine(const Tensor& x, Tensor& out, double scale, double shift);
void binary(const Tensor& a, const Tensor& b, Tensor& out, Binary kind);
void unary_forward(const Tensor& x, Tensor& out, Unary kind);
void unary_backward(const Tensor& x, const Tensor& out, const Tensor& dout, Tensor& dx, Unary kind);

// ---- embedding: out[i] = table[indices[i]]; a negative index gives a zero row, one past the table an index error and a zero row.
//   table (V, D)   indices (...)   out (..., D)
void embedding_forward(const Tensor& table, const Tensor& indices, Tensor& out);

// ---- embedding_bag: out_b = sum of factor_i table[indices[i]] over i in offsets[b] .. offsets[b+1); factor_i = weights_i, for `mean`
// over the bag's number of indices that are no padding. Negative indices are padding. For the row-sparse gradient of the table:
// source_i = b (-1 past the last bag) and factor_i.
//   table (V, D)   indices, weights, source, factor (T)   offsets (B+1)   out (B, D)
void embedding_bag_forward(const Tensor& table, const Tensor& indices, const Tensor& offsets, const Tensor& weights, Tensor& out,
                           Tensor& source, Tensor& factor, bool mean);
void embedding_bag_backward_weights(const Tensor& table, const Tensor& indices, const Tensor& offsets, const Tensor& dout,
                                    Tensor& dweights, bool mean);

// ---- fill: out = value, any dtype. copy: out = x, same dtype and size.
void fill(Tensor& out, double value);
void copy(const Tensor& x, Tensor& out);

// ---- gather_rows: out[i] = x[index[i]]; a negative index gives a zero row. dx[r] = sum of dout[i] with index[i] = r, by position.
//   x, dx (N, ...)   index (T)   out, dout (T, ...)
void gather_rows_forward(const Tensor& x, const Tensor& index, Tensor& out);
void gather_rows_backward(const Tensor& dout, const Tensor& index, Tensor& dx);

// ---- info_nce: s_ij = scale q_i.k_j - log_q_j; loss_i = log(1 + n_i), n_i = sum over j != pos(i) of A_ij e^(s_ij - s_ipos);
// loss = sum_i w_i loss_i / W, W = sum w (N without weights), 0 if W = 0. A_ij = 0 where row_groups_gi = col_groups_gj >= 0 for any g.
// With p_ij = e^s_ij / (A-visible sum of row i): G_ij = w_i p_ij / W, G_ipos = -w_i n_i / ((1 + n_i) W); dq = scale G k, dk = scale G^T q.
//   q, dq (N, D)   k, dk (M, D)   positives, weights (N)   log_q (M)   row_groups (G, N) or (N)   col_groups (G, M) or (M)   loss, dloss ()
//   negatives (N, S): the sum runs over these columns, as often as listed, the positive's own column too; groups are then undefined
//   saved: positive_scores s_ipos (N), row_log_sums log sum_j A_ij e^s_ij without the positive (N), minus infinity for none
//   column_log_sums (N), if defined: symmetric, N = M, pos(i) = i: the mean of the loss over rows and the same loss over columns
//   normalized: q and k have unit rows, so |scale| bounds the scores: a backend may use that
//   weights, log_q are wide; positives, negatives, row_groups, col_groups, weights, log_q may be undefined, dq and dk too: not wanted
void info_nce_forward(const Tensor& q, const Tensor& k, const Tensor& positives, const Tensor& negatives, const Tensor& row_groups,
                      const Tensor& col_groups, const Tensor& weights, const Tensor& log_q, Tensor& loss, Tensor& positive_scores,
                      Tensor& row_log_sums, Tensor& column_log_sums, double scale, bool normalized);
void info_nce_backward(const Tensor& q, const Tensor& k, const Tensor& positives, const Tensor& negatives, const Tensor& row_groups,
                       const Tensor& col_groups, const Tensor& weights, const Tensor& log_q, const Tensor& positive_scores,
                       const Tensor& row_log_sums, const Tensor& column_log_sums, const Tensor& dloss, Tensor& dq, Tensor& dk,
                       double scale);

// ---- layer_norm: with s = x + residual (or x): out = (s - mean) rstd weight + bias, mean and rstd = 1 / sqrt(variance + eps) of each row.
// g = dout weight, z = (s - mean) rstd: dx = rstd (g - mean(g) - z mean(g z)), the gradient of residual too; dweight = sum over rows of
// dout z, dbias of dout.
//   x, residual, sum (written with residual only), out, dout, dx (..., D); weight, bias (D); mean, rstd (...). backward takes s as x.
void layer_norm_forward(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias, Tensor& sum, Tensor& out,
                        Tensor& mean, Tensor& rstd, double eps);
void layer_norm_backward(const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& rstd, const Tensor& dout, Tensor& dx,
                         Tensor& dweight, Tensor& dbias);

// ---- linear: out = f(x W^T + bias). x (..., K), weight (N, K), bias (N)?, out (..., N); preactivation (..., N)? receives the sum before f.
// backward: dz = dout f'; dx = dz W, dweight = dz^T x, dbias = sum of dz over rows; each of them is optional. dz (..., N) is scratch,
// undefined when f is none. preactivation is read for gelu and silu, out for the other activations.
void linear_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& out, Tensor& preactivation, Activation kind);
void linear_backward(const Tensor& x, const Tensor& weight, const Tensor& preactivation, const Tensor& out, const Tensor& dout,
                     Tensor& dz, Tensor& dx, Tensor& dweight, Tensor& dbias, Activation kind);

// ---- lora_linear: hidden = scale z A^T, out = x W^T + bias + hidden B^T, W and bias frozen.
//   x, z (..., K): z is x, or x after dropout   weight (N, K)   bias (N)?   a (r, K)   b (N, r)   hidden (..., r), saved   out (..., N)
// backward: dhidden = scale dout B (scratch); dz = dhidden A, db = dout^T hidden, da = dhidden^T z; dx = dout W, plus dz when
// dz is undefined and x is z. dx, dz, da, db are optional.
void lora_linear_forward(const Tensor& x, const Tensor& z, const Tensor& weight, const Tensor& bias, const Tensor& a, const Tensor& b,
                         Tensor& hidden, Tensor& out, double scale);
void lora_linear_backward(const Tensor& z, const Tensor& weight, const Tensor& a, const Tensor& b, const Tensor& hidden,
                          const Tensor& dout, Tensor& dhidden, Tensor& dx, Tensor& dz, Tensor& da, Tensor& db, bool shared, double scale);

// ---- matmul: out = op(a) op(b), op the transpose of the last two dimensions when asked. op(a) (..., M, K), op(b) (..., K, N),
// out (..., M, N), equal leading dimensions.
void matmul_forward(const Tensor& a, const Tensor& b, Tensor& out, bool transpose_a, bool transpose_b);

// ---- memory_bank: rows by 64-bit key, two candidate buckets of 16 slots each (core/hash.h). Slot s of bucket b is row 16 b + s.
//   state: fingerprints (buckets, 16) uint8, 0 = empty   keys (buckets, 16) int64   stamps (buckets, 16) int32, step of the last write
//   times (buckets, 16) int32, event time of the last write, optional   rows (16 buckets, D) of any floating type, moved as bytes
//   counters (6) int64, added to: rows inserted, updated, evicted, dropped, refused, superseded
// lookup: slot[i] = row of wanted[i], age[i] = now - stamp (at least 0); both -1 if it is not there, or older than max_age >= 0.
// stage: what a step wants to write. Rows that are zero or not finite are refused; of equal keys the newest stays: highest step, then
//   highest sample, then last position, the others are superseded. staged_keys: distinct, ascending; source: their rows; -1 behind
//   the first counts[0].   keys, samples, staged_keys (n) int64   steps, source (n) int32   counts (3) int32: staged, refused, superseded
// gather: out[i] = row of wanted[i], the staged one first (age 0, joined[i] = its position in staged_rows, else -1), else the bank's,
//   else zero. join: the same onto rows that were gathered before: staged ones replace them, the others are copied with their age.
//   The gradient to staged_rows is gather_rows_backward by joined.   wanted (T) int64   rows, out (T, D)   age, slot, joined (T) int32
// upsert: writes staged rows, nothing at all where factor (1) float64, if given, is not positive (NaN: a skipped step). Keys are looked
//   up in the table as it stood. The slot of a known key is overwritten, unless its stamp is newer than the row (superseded). A new key
//   takes the emptier of its buckets (tie: the first) and there, after all known keys, in ascending order of new keys: an empty slot, the
//   lowest; else, with times, the slot with the oldest time below expired_before (tie: the lowest); else, with evict, the one with the
//   oldest stamp below the row's step (tie: the lowest); else it is dropped.   steps, event_times (n) int32 as staged; without steps: now
void memory_bank_lookup(const Tensor& fingerprints, const Tensor& keys, const Tensor& stamps, const Tensor& wanted, Tensor& slot,
                        Tensor& age, int64_t seed, int64_t now, int64_t max_age);
void memory_bank_stage(const Tensor& keys, const Tensor& rows, const Tensor& steps, const Tensor& samples, Tensor& staged_keys,
                       Tensor& source, Tensor& counts);
void memory_bank_gather(const Tensor& fingerprints, const Tensor& keys, const Tensor& stamps, const Tensor& rows, const Tensor& wanted,
                        const Tensor& staged_keys, const Tensor& source, const Tensor& counts, const Tensor& staged_rows, Tensor& out,
                        Tensor& age, Tensor& joined, int64_t seed, int64_t now, int64_t max_age);
void memory_bank_join(const Tensor& rows, const Tensor& row_age, const Tensor& wanted, const Tensor& staged_keys, const Tensor& source,
                      const Tensor& counts, const Tensor& staged_rows, Tensor& out, Tensor& age, Tensor& joined);
void memory_bank_upsert(Tensor& fingerprints, Tensor& keys, Tensor& stamps, Tensor& times, Tensor& rows, Tensor& counters,
                        const Tensor& staged_keys, const Tensor& source, const Tensor& counts, const Tensor& staged_rows,
                        const Tensor& steps, const Tensor& event_times, const Tensor& factor, int64_t seed, int64_t now,
                        int64_t expired_before, bool evict);

// ---- normalize: out = x / max(norm, eps), norm = |x| of each row; dx = (dout - out dot(out, dout)) / norm, or dout / eps up to eps.
//   x, out, dout, dx (..., D); norm (...)
void normalize_forward(const Tensor& x, Tensor& out, Tensor& norm, double eps);
void normalize_backward(const Tensor& out, const Tensor& norm, const Tensor& dout, Tensor& dx, double eps);

// ---- pad_jagged: out[b][i] = x[offsets[b] + i] for the first L entries of row b, zeros behind them.
//   x, dx (T) or (T, D)   offsets (B+1)   out, dout (B, L) or (B, L, D)
void pad_jagged_forward(const Tensor& x, const Tensor& offsets, Tensor& out);
void pad_jagged_backward(const Tensor& dout, const Tensor& offsets, Tensor& dx);

// ---- patch_embedding: out[n, patch] = W u + bias, u the patch's pixels as (channel, row, column), each scale[channel] pixel + shift[channel]:
// a convolution of stride p with W (D, 3, p, p).
//   images (B, H, W, 3) uint8   weight (D, 3 p p)   bias (D)?   normalization (2, 3), wide: scale, shift   out (B, (H/p)(W/p), D)
// backward: dweight, dbias (optional, overwritten); pixels have no gradient.
void patch_embedding_forward(const Tensor& images, const Tensor& weight, const Tensor& bias, const Tensor& normalization, Tensor& out,
                             int64_t patch_size);
void patch_embedding_backward(const Tensor& images, const Tensor& normalization, const Tensor& dout, Tensor& dweight, Tensor& dbias,
                              int64_t patch_size);

// ---- prelu: out = x where x > 0, else alpha x.   x, out, dout, dx (..., D); alpha, dalpha (D)
void prelu_forward(const Tensor& x, const Tensor& alpha, Tensor& out);
void prelu_backward(const Tensor& x, const Tensor& alpha, const Tensor& dout, Tensor& dx, Tensor& dalpha);

// ---- reduce: out = scale * sum of x over the dimensions in which out is 1 (or that out lacks on the left).
void reduce_sum(const Tensor& x, Tensor& out, double scale);

// ---- rms_norm: out = x rstd weight, rstd = 1 / sqrt(mean(x^2) + eps) of each row. With g = dout weight, z = x rstd:
// dx = rstd (g - z mean(g z)), dweight = sum over rows of dout z.   x, out, dout, dx (..., D); weight, dweight (D); rstd (...)
void rms_norm_forward(const Tensor& x, const Tensor& weight, Tensor& out, Tensor& rstd, double eps);
void rms_norm_backward(const Tensor& x, const Tensor& weight, const Tensor& rstd, const Tensor& dout, Tensor& dx, Tensor& dweight);

// ---- row_sparse: optimizers on the touched rows of a table (V, D); other rows do not change, nor decay.
// row_sparse_reduce: row r receives the sum of weights[p][i] values[p][sources[p][i]] over all lookups with indices[p][i] = r, in order
// of (piece, position); an empty source means i, empty weights mean 1; rows outside [0, num_rows) and negative sources are padding.
// rows: the touched ones, ascending, -1 behind the first `count`.
//   indices, sources, weights (T_p)   values (any, D)   rows (capacity)   sums (capacity, D)   count (1) int32
void row_sparse_reduce(const TensorList& indices, const TensorList& values, const TensorList& sources, const TensorList& weights,
                       Tensor& rows, Tensor& sums, Tensor& count, int64_t num_rows);
// The updates, with g = clip sums[i] for row rows[i], in place; each counts one step; a clip that is not finite writes nothing.
//   rowwise_adagrad: v += mean(g g), row = (1 - rate decay) row - rate g / (sqrt(v) + eps). v (V).
//   rowwise_adam: m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) mean(g g), then as adamw. m (V, D), v (V).
//   lazy_adam: m, v as in adamw, row -= rate sqrt(1 - beta2^step) / (1 - beta1^step) m / (sqrt(v) + eps). m, v (V, D).
void rowwise_adagrad(Tensor& table, Tensor& v, Tensor& step, const Tensor& rows, const Tensor& sums, const Tensor& count,
                     const Tensor& clip, double learning_rate, double weight_decay, double eps);
void rowwise_adam(Tensor& table, Tensor& m, Tensor& v, Tensor& step, const Tensor& rows, const Tensor& sums, const Tensor& count,
                  const Tensor& clip, double learning_rate, double weight_decay, double beta1, double beta2, double eps);
void lazy_adam(Tensor& table, Tensor& m, Tensor& v, Tensor& step, const Tensor& rows, const Tensor& sums, const Tensor& count,
               const Tensor& clip, double learning_rate, double beta1, double beta2, double eps);

// ---- segment_softmax: softmax over rows offsets[b] .. offsets[b+1), column by column; rows of no segment 0. dx as in softmax.
//   x, out, dout, dx (T) or (T, H); offsets (B+1)
void segment_softmax_forward(const Tensor& x, const Tensor& offsets, Tensor& out);
void segment_softmax_backward(const Tensor& out, const Tensor& offsets, const Tensor& dout, Tensor& dx);

// ---- segment_sum: out_b = sum of weights_i x_i over i in offsets[b] .. offsets[b+1), for `mean` over the number of rows.
//   x, dx (T, D)   offsets (B+1)   weights, dweights (T)   out, dout (B, D)
void segment_sum_forward(const Tensor& x, const Tensor& offsets, const Tensor& weights, Tensor& out, bool mean);
void segment_sum_backward(const Tensor& x, const Tensor& offsets, const Tensor& weights, const Tensor& dout, Tensor& dx,
                          Tensor& dweights, bool mean);

// ---- slice: out = x[.., start .. start + size of out, ..] along `axis`; backward writes zeros elsewhere.
void slice_forward(const Tensor& x, Tensor& out, int64_t axis, int64_t start);
void slice_backward(const Tensor& dout, Tensor& dx, int64_t axis, int64_t start);

// ---- softmax: out_i = e^x_i / sum_j e^x_j in each row, 0 where all are minus infinity; dx = out (dout - dot(out, dout)).
//   x, out, dout, dx (..., D)
void softmax_forward(const Tensor& x, Tensor& out);
void softmax_backward(const Tensor& out, const Tensor& dout, Tensor& dx);

// ---- sort_descending: the first lengths[b] entries of row b, largest first, ties by position; zeros behind them. order[b][i] is the
// column that entry i came from, -1 behind them. dx[b][order[b][i]] = dout[b][i].
//   x, out, order, dout, dx (B, L)   lengths (B)
void sort_descending_forward(const Tensor& x, const Tensor& lengths, Tensor& out, Tensor& order);
void sort_descending_backward(const Tensor& dout, const Tensor& order, Tensor& dx);

// ---- top_k: the k largest entries of each row, largest first, ties by position.
//   x (B, L)   values, indices (B, k)
void top_k(const Tensor& x, Tensor& values, Tensor& indices);

// ---- transpose: dimension d of out is dimension axes[d] of x.
void transpose(const Tensor& x, Tensor& out, const std::vector<int64_t>& axes);

// ---- unique: distinct keys ascending, -1 behind the first `count` of them; keys[i] = unique[inverse[i]]. Keys int32 or int64.
//   keys, unique, inverse (n)   count (1)
void unique(const Tensor& keys, Tensor& unique, Tensor& inverse, Tensor& count);

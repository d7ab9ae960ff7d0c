// The list of kernels: one row each, `?` marks an optional tensor. The bindings derive checks and TypeScript declarations from it, the
// modules of other devices their table of functions.
KERNEL(activation_forward, "x out kind");
KERNEL(activation_backward, "x out dout dx kind");

KERNEL(add_same, "a b out");

KERNEL(adamw, "params grads m v steps clip learning_rate weight_decay beta1 beta2 eps");
KERNEL(gradient_norm, "grads rows counts norm");
KERNEL(clip_factor, "norm factor skipped max_norm");

KERNEL(batch_norm_forward, "x weight? bias? running_mean running_var out mean rstd training momentum eps");
KERNEL(batch_norm_backward, "x weight? mean rstd dout dx? dweight? dbias? training");

KERNEL(bce_with_logits_forward, "logits labels weights? loss");
KERNEL(bce_with_logits_backward, "logits labels weights? dloss dlogits");

KERNEL(cast, "x out");

KERNEL(concat_forward, "inputs out axis");
KERNEL(concat_backward, "dout dinputs axis");

KERNEL(content_table_read, "rows steps keys staged_keys? staged? out age now");
KERNEL(content_table_commit, "rows steps refused staged_keys staged factor? now");

KERNEL(cosine_similarity_forward, "d h offsets mask? out eps");
KERNEL(cosine_similarity_backward, "d h offsets mask? out dout dd? dh? eps");

KERNEL(cross_attention_forward, "q k v offsets q_offsets? mask? out lse causal scale");
KERNEL(cross_attention_backward, "q k v offsets q_offsets? mask? out lse dout dq? dk? dv? causal scale");

KERNEL(dice_forward, "x alpha running_mean running_var out mean rstd training momentum eps");
KERNEL(dice_backward, "x alpha mean rstd dout dx? dalpha? training");

KERNEL(dropout, "x out p seed step call");

KERNEL(affine, "x out scale shift");
KERNEL(binary, "a b out kind");
KERNEL(unary_forward, "x out kind");
KERNEL(unary_backward, "x out dout dx kind");

KERNEL(embedding_forward, "table indices out");

KERNEL(embedding_bag_forward, "table indices offsets weights? out source? factor? mean");
KERNEL(embedding_bag_backward_weights, "table indices offsets dout dweights mean");

KERNEL(fill, "out value");
KERNEL(copy, "x out");

KERNEL(gather_rows_forward, "x index out");
KERNEL(gather_rows_backward, "dout index dx");

KERNEL(info_nce_forward,
       "q k positives? negatives? row_groups? col_groups? weights? log_q? loss positive_scores row_log_sums column_log_sums? scale "
       "normalized");
KERNEL(info_nce_backward,
       "q k positives? negatives? row_groups? col_groups? weights? log_q? positive_scores row_log_sums column_log_sums? dloss dq? dk? "
       "scale");

KERNEL(layer_norm_forward, "x residual? weight bias sum? out mean rstd eps");
KERNEL(layer_norm_backward, "x weight mean rstd dout dx? dweight? dbias?");

KERNEL(linear_forward, "x weight bias? out preactivation? kind");
KERNEL(linear_backward, "x weight preactivation? out? dout dz? dx? dweight? dbias? kind");

KERNEL(lora_linear_forward, "x z weight bias? a b hidden out scale");
KERNEL(lora_linear_backward, "z weight a b hidden dout dhidden dx? dz? da? db? shared scale");

KERNEL(matmul_forward, "a b out transpose_a transpose_b");

KERNEL(memory_bank_lookup, "fingerprints keys stamps wanted slot age seed now max_age");
KERNEL(memory_bank_stage, "keys rows steps? samples? staged_keys source counts");
KERNEL(memory_bank_gather,
       "fingerprints keys stamps rows wanted staged_keys? source? counts? staged_rows? out age joined? seed now max_age");
KERNEL(memory_bank_join, "rows row_age wanted staged_keys source counts staged_rows out age joined");
KERNEL(memory_bank_upsert,
       "fingerprints keys stamps times? rows counters staged_keys source counts staged_rows steps? event_times? factor? seed now "
       "expired_before evict");

KERNEL(normalize_forward, "x out norm eps");
KERNEL(normalize_backward, "out norm dout dx eps");

KERNEL(pad_jagged_forward, "x offsets out");
KERNEL(pad_jagged_backward, "dout offsets dx");

KERNEL(patch_embedding_forward, "images weight bias? normalization out patch_size");
KERNEL(patch_embedding_backward, "images normalization dout dweight? dbias? patch_size");

KERNEL(prelu_forward, "x alpha out");
KERNEL(prelu_backward, "x alpha dout dx? dalpha?");

KERNEL(reduce_sum, "x out scale");

KERNEL(rms_norm_forward, "x weight out rstd eps");
KERNEL(rms_norm_backward, "x weight rstd dout dx? dweight?");

KERNEL(row_sparse_reduce, "indices values sources weights rows sums count num_rows");
KERNEL(rowwise_adagrad, "table v step rows sums count clip learning_rate weight_decay eps");
KERNEL(rowwise_adam, "table m v step rows sums count clip learning_rate weight_decay beta1 beta2 eps");
KERNEL(lazy_adam, "table m v step rows sums count clip learning_rate beta1 beta2 eps");

KERNEL(segment_softmax_forward, "x offsets out");
KERNEL(segment_softmax_backward, "out offsets dout dx");

KERNEL(segment_sum_forward, "x offsets weights? out mean");
KERNEL(segment_sum_backward, "x offsets weights? dout dx? dweights? mean");

KERNEL(slice_forward, "x out axis start");
KERNEL(slice_backward, "dout dx axis start");

KERNEL(softmax_forward, "x out");
KERNEL(softmax_backward, "out dout dx");

KERNEL(sort_descending_forward, "x lengths? out order");
KERNEL(sort_descending_backward, "dout order dx");

KERNEL(top_k, "x values indices");

KERNEL(transpose, "x out axes");

KERNEL(unique, "keys unique inverse count");

/*
Attention over jagged keys: each query row attends to the keys of its own item.

s_ij = scale q_i.k_j, p_ij = e^(s_ij - lse_i), out_i = sum_j p_ij v_j. Forward keeps a running maximum and sum per row (base 2) and never
stores p; it saves lse. Backward recomputes p from lse; with delta_i = dot(out_i, dout_i), ds_ij = p_ij (dout_i.v_j - delta_i), it is
dv_j = sum_i p_ij dout_i, dq_i = scale sum_j ds_ij k_j, dk_j = scale sum_i ds_ij q_i.

Every row of a result has one owner, so there are no atomics and any grid gives the same bits. Where q is shared by all items, dq is a
partial sum per chunk of items, added in chunk order. Tiles of jagged rows are found by their offsets on the device: nothing is read
back, a launch is as large as the shapes allow and slots without rows return early.

Three families of kernels, chosen by shapes and dtype alone:
  cross_attention_few.cu   bfloat16, head size 16, 32, 64 or 128, up to 32 queries per item: keys streamed once, backward in one pass
  attention_tiles.cuh      the same dtype and head sizes, any queries: jagged self-attention, joint, grouped heads in backward
  attention_simt.cuh       everything else, and the reference of both: float32 arithmetic, head size up to 256
*/
#include "attention_few.cuh"
#include "attention_items.cuh"
#include "attention_simt.cuh"
#include "attention_tiles.cuh"

namespace galago::cuda {

namespace attention {

// ---- launchers

static Call call_of(const Tensor& k, const Tensor& offsets, const Tensor& q_offsets, const Tensor& mask, const Tensor& q, const Tensor& out,
                    bool causal, double scale) {
  Call call{};
  call.mask = mask.data<int32_t>();
  call.Tq = out.rank == 4 ? out.shape[0] * out.shape[1] : out.shape[0];
  call.Tk = k.shape[0];
  call.key_offsets = offsets_of("crossAttention", offsets, call.Tk);
  if (q_offsets) call.query_offsets = offsets_of("crossAttention", q_offsets, call.Tq, "qOffsets");
  call.B = int(offsets.size() - 1);
  call.H = int(out.shape[out.rank - 2]);
  call.Hkv = int(k.shape[1]);
  call.D = int(out.columns());
  call.queries_per_item = out.rank == 4 ? int(out.shape[1]) : 0;
  call.shared = out.rank == 4 && q.shape[0] != out.shape[0];
  call.causal = causal;
  call.scale = float(scale);
  return call;
}

// Calls body with the padded head size.
template <class F>
static void dispatch_head(int D, F&& body) {
  if (D <= 32) return body.template operator()<32>();
  if (D <= 64) return body.template operator()<64>();
  if (D <= 128) return body.template operator()<128>();
  if (D <= 256) return body.template operator()<256>();
  throw Error("SHAPE", "crossAttention: expected a head size of at most 256 on CUDA but received " + std::to_string(D));
}

// Calls body with the head size, if the tensor cores take it. Every other case goes to simt.
template <class F>
static bool dispatch_tensor_cores(const Call& call, F&& body) {
  if (!call.whole_packs) return false;
  switch (call.D) {
    case 16: return body.template operator()<16>(), true;
    case 32: return body.template operator()<32>(), true;
    case 64: return body.template operator()<64>(), true;
    case 128: return body.template operator()<128>(), true;
    default: return false;
  }
}

// At least one block: rows that no item owns are filled even if there are no items.
static unsigned blocks(int64_t units) { return grid_of(std::max<int64_t>(units, 1)); }

// Tiles of queries that dq is made of: with shared queries, of each chunk of items.
static int64_t dq_slots(const Call& call, const Chunks& chunks, int rows) {
  return call.shared ? int64_t(chunks.count) * call.tiles_per_item(rows) : call.query_slots(rows);
}

}  // namespace attention

void cross_attention_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& offsets, const Tensor& q_offsets,
                             const Tensor& mask, Tensor& out, Tensor& lse, bool causal, double scale) {
  using namespace attention;
  Call call = call_of(k, offsets, q_offsets, mask, q, out, causal, scale);
  dispatch_float(q.dtype, [&]<class T>() {
    const T *pq = q.data<T>(), *pk = k.data<T>(), *pv = v.data<T>();
    T* po = out.data<T>();
    call.whole_packs = packed<T>(call.D, pq, pk, pv, po);
    if constexpr (std::is_same_v<T, bfloat16>) {
      if (few::forward(call, pq, pk, pv, po, lse.data<float>())) return;
      const bool done = dispatch_tensor_cores(call, [&]<int D>() {
        launch(tiles::forward_kernel<D>, blocks(call.query_slots(tiles::ROWS) * call.H), threads, tiles::forward_bytes<D>, call, pq, pk, pv,
               po, lse.data<float>());
      });
      if (done) return;
    }
    dispatch_head(call.D, [&]<int DP>() {
      using S = simt::Sizes<DP>;
      launch(simt::forward_kernel<T, DP>, blocks(call.query_slots(S::ROWS) * call.H), simt::threads, S::shared_bytes, call, pq, pk, pv, po,
             lse.data<float>());
    });
  });
}

namespace attention {

// dq, dk and dv by their owners, from `rows`.
template <class T>
static void backward_by_tiles(const Call& call, const Chunks& chunks, const T* q, const T* k, const T* v, const T* dout, const Row* rows,
                              T* dq, T* dk, T* dv, float* partial) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    const bool done = dispatch_tensor_cores(call, [&]<int D>() {
      if (dq)
        launch(tiles::dq_kernel<D>, blocks(dq_slots(call, chunks, tiles::ROWS) * call.H), threads, tiles::backward_bytes<D>, call, chunks,
               q, k, v, dout, rows, dq, partial);
      if (dk || dv)
        launch(tiles::dkdv_kernel<D>, blocks(call.key_slots(tiles::ROWS) * call.Hkv), threads, tiles::backward_bytes<D>, call, q, k, v,
               dout, rows, dk, dv);
    });
    if (done) return;
  }
  dispatch_head(call.D, [&]<int DP>() {
    using S = simt::Sizes<DP>;
    if (dq)
      launch(simt::dq_kernel<T, DP>, blocks(dq_slots(call, chunks, S::ROWS) * call.H), simt::threads, S::shared_bytes, call, chunks, q, k,
             v, dout, rows, dq, partial);
    if (dk || dv)
      launch(simt::dkdv_kernel<T, DP>, blocks(call.key_slots(S::ROWS) * call.Hkv), simt::threads, S::shared_bytes, call, q, k, v, dout,
             rows, dk, dv);
  });
}

}  // namespace attention

void cross_attention_backward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& offsets, const Tensor& q_offsets,
                              const Tensor& mask, const Tensor& out, const Tensor& lse, const Tensor& dout, Tensor& dq, Tensor& dk,
                              Tensor& dv, bool causal, double scale) {
  using namespace attention;
  Call call = call_of(k, offsets, q_offsets, mask, q, out, causal, scale);
  const Chunks chunks = call.shared ? Chunks::of(call.B, q.size()) : Chunks{};
  const Scratch<float> partial(dq ? chunks.count * q.size() : 0);
  const float* saved = lse.data<float>();
  dispatch_float(q.dtype, [&]<class T>() {
    const T *pq = q.data<T>(), *pk = k.data<T>(), *pv = v.data<T>(), *po = out.data<T>(), *pd = dout.data<T>();
    T *pdq = dq.data<T>(), *pdk = dk.data<T>(), *pdv = dv.data<T>();
    call.whole_packs = packed<T>(call.D, pq, pk, pv, po, pd, pdq, pdk, pdv);
    bool done = false;
    if constexpr (std::is_same_v<T, bfloat16>) done = few::backward(call, chunks, pq, pk, pv, po, saved, pd, pdq, pdk, pdv, partial.data());
    if (!done) {
      const Scratch<Row> rows(call.H * call.Tq);
      launch(rows_kernel<T>, grid_of((call.Tq * call.H + 255) / 256), 256, 0, po, pd, saved, rows.data(), call.Tq, call.H, call.D,
             call.whole_packs);
      backward_by_tiles(call, chunks, pq, pk, pv, pd, rows.data(), pdq, pdk, pdv, partial.data());
    }
    if (call.shared && dq)
      launch(sum_chunks_kernel<T>, grid_of((q.size() + 255) / 256), 256, 0, partial.data(), pdq, chunks.count, q.size());
  });
}

}  // namespace galago::cuda

/*
Weighted sums or means of table rows, one per bag: out_b = sum of factor_i table[indices[i]]. Backward of the table is row-sparse
(source = bag, factor), reduced by row_sparse_reduce; that of the weights is dweights_i = share_b dot(dout_b, table[indices[i]]).

Forward: `width` neighbouring threads own a bag and run over its indices in order, four rows in flight, the sum in registers. Bound by
the bytes of the rows. Backward: the same threads take the bag's indices one after the other. float32 only.
*/
#include "offsets.cuh"
#include "row_lanes.cuh"

namespace galago::cuda {

namespace {

struct Bags {
  const float* table;
  const int32_t* indices;
  const float* weights;  // may be null
  Offsets offsets;
  IndexReport report;
  int64_t V, D;
  int width;
  bool mean;

  __device__ bool present(int64_t index) const { return index >= 0 && index < V; }

  // 1, or one over the number of indices that are no padding.
  __device__ float share(Segment bag) const {
    int64_t count = 0;
    for (int64_t i = bag.begin; mean && i < bag.end; i++) count += present(indices[i]);
    return count > 0 ? 1.0f / float(count) : 1.0f;
  }
};

}  // namespace

static __global__ void no_bag_kernel(int32_t* source, float* factor, int64_t total) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += stride) {
    source[i] = -1;
    factor[i] = 0;
  }
}

template <int V>
__global__ void __launch_bounds__(row_block, 4) embedding_bag_forward_kernel(const Bags bags, float* out, int32_t* source, float* factor) {
  const int teams = row_block / bags.width, place = int(threadIdx.x) % bags.width;
  for (int64_t b = int64_t(blockIdx.x) * teams + threadIdx.x / bags.width; b < bags.offsets.segments; b += int64_t(gridDim.x) * teams) {
    const Segment bag = bags.offsets[b];
    const float share = bags.share(bag);
    for (int64_t i = bag.begin + place; i < bag.end; i += bags.width) {
      if (bags.indices[i] >= bags.V) bags.report(i, bags.indices[i]);
      if (!source) continue;
      source[i] = int32_t(b);
      factor[i] = (bags.weights ? bags.weights[i] : 1.0f) * share;
    }
    for (int64_t d = int64_t(place) * V; d < bags.D; d += bags.width * V) {
      float sums[V] = {};
#pragma unroll 4
      for (int64_t i = bag.begin; i < bag.end; i++) {
        const int64_t index = bags.indices[i];
        if (!bags.present(index)) continue;
        const float f = (bags.weights ? bags.weights[i] : 1.0f) * share;
        float x[V];
        load_columns(bags.table + index * bags.D + d, x);
#pragma unroll
        for (int k = 0; k < V; k++) sums[k] += f * x[k];
      }
      store_columns(out + b * bags.D + d, sums);
    }
  }
}

// A warp owns a bag: its lanes add up a dot product. Indices of no bag have been set to zero.
template <int V>
__global__ void __launch_bounds__(row_block) embedding_bag_weights_kernel(const Bags bags, const float* dout, float* dweights) {
  constexpr int teams = row_block / warp_size;
  for (int64_t b = int64_t(blockIdx.x) * teams + warp(); b < bags.offsets.segments; b += int64_t(gridDim.x) * teams) {
    const Segment bag = bags.offsets[b];
    const float share = bags.share(bag);
    for (int64_t i = bag.begin; i < bag.end; i++) {
      const int64_t index = bags.indices[i];
      if (!bags.present(index)) continue;
      float sum = 0;
      for (int64_t d = lane() * V; d < bags.D; d += warp_size * V) {
        float g[V], x[V];
        load_columns(dout + b * bags.D + d, g);
        load_columns(bags.table + index * bags.D + d, x);
#pragma unroll
        for (int k = 0; k < V; k++) sum += g[k] * x[k];
      }
      sum = warp_sum(sum);
      if (lane() == 0) dweights[i] = share * sum;
    }
  }
}

// ---- launchers

static Bags bags_of(const Tensor& table, const Tensor& indices, const Tensor& offsets, const Tensor& weights, bool mean) {
  CHECK(table.dtype == DType::float32, "embedding_bag: expected float32");
  const int64_t V = table.shape[0];
  return {table.data<float>(),
          indices.data<int32_t>(),
          weights.data<float>(),
          offsets_of("embeddingBag", offsets, indices.size()),
          index_report("embeddingBag", "indices", V),
          V,
          table.columns(),
          warp_size,
          mean};
}

void embedding_bag_forward(const Tensor& table, const Tensor& indices, const Tensor& offsets, const Tensor& weights, Tensor& out,
                           Tensor& source, Tensor& factor, bool mean) {
  Bags bags = bags_of(table, indices, offsets, weights, mean);
  const int64_t total = indices.size();
  int32_t* bag_of = source.data<int32_t>();
  float *scale = factor.data<float>(), *to = out.data<float>();
  if (bag_of) launch(no_bag_kernel, grid_of((total + 1023) / 1024), 256, 0, bag_of, scale, total);
  dispatch_columns<float>(
      [&]<int V>() {
        bags.width = lanes_for(bags.D, V);
        const int teams = row_block / bags.width;
        launch(embedding_bag_forward_kernel<V>, grid_of((bags.offsets.segments + teams - 1) / teams), row_block, 0, bags, to, bag_of,
               scale);
      },
      bags.D, bags.table, to);
}

void embedding_bag_backward_weights(const Tensor& table, const Tensor& indices, const Tensor& offsets, const Tensor& dout, Tensor& dweights,
                                    bool mean) {
  const Bags bags = bags_of(table, indices, offsets, {}, mean);
  const float* pd = dout.data<float>();
  fill(dweights, 0);
  dispatch_columns<float>(
      [&]<int V>() {
        constexpr int teams = row_block / warp_size;
        launch(embedding_bag_weights_kernel<V>, grid_of((bags.offsets.segments + teams - 1) / teams), row_block, 0, bags, pd,
               dweights.data<float>());
      },
      bags.D, bags.table, pd);
}

}  // namespace galago::cuda

// What the kernels share: vectors of floats, small matrix products, memory of one call.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace {

constexpr int kLanes = KERNEL_LANES;   // floats of a vector
constexpr int kPanel = 2 * kLanes;      // output channels of the innermost product
constexpr int kRows = 6;                // its rows: with two vectors each, twelve sums in registers

typedef float Vec __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(4 * kLanes)));

inline Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }

inline Vec all(float value) { return value - Vec{}; }  // minus zero changes nothing, so the compiler drops it

// rows[i][j] -> rows[j][i]: blocks of 1, 2, 4.. lanes change places.
template <int kWidth = 1>
inline void transpose(Vec* rows) {
  if constexpr (kWidth < kLanes) {
    Bits low, high;  // which lanes of a pair of rows: first those of the one, then those of the other
#pragma GCC unroll 16
    for (int l = 0; l < kLanes; ++l) {
      low[l] = l & kWidth ? kLanes + l - kWidth : l;
      high[l] = l & kWidth ? kLanes + l : l + kWidth;
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i)
      if (!(i & kWidth)) {
        const Vec a = rows[i], b = rows[i + kWidth];
        rows[i] = __builtin_shuffle(a, b, low);
        rows[i + kWidth] = __builtin_shuffle(a, b, high);
      }
    transpose<2 * kWidth>(rows);
  }
}

// c[r][0..kPanel) (+)= sum over k of a(r, k) * b[k][0..kPanel), r < kCount; `a` has one stride for r and one for k.
template <int kCount>
inline void panel_product(const float* a, long row, long deep, const float* b, long b_step, int depth, float* c,
                          long c_step, bool add) {
  Vec low[kCount], high[kCount];
  for (int r = 0; r < kCount; ++r) {
    low[r] = add ? load(c + r * c_step) : Vec{};
    high[r] = add ? load(c + r * c_step + kLanes) : Vec{};
  }
  for (int k = 0; k < depth; ++k) {
    const Vec b0 = load(b + k * b_step), b1 = load(b + k * b_step + kLanes);
#pragma GCC unroll 6
    for (int r = 0; r < kCount; ++r) {
      const Vec value = all(a[r * row + k * deep]);
      low[r] += value * b0;
      high[r] += value * b1;
    }
  }
  for (int r = 0; r < kCount; ++r) {
    store(c + r * c_step, low[r]);
    store(c + r * c_step + kLanes, high[r]);
  }
}

void rows_product(int rows, const float* a, long row, long deep, const float* b, long b_step, int depth, float* c,
                  long c_step, bool add) {
  int r = 0;
  for (; r + kRows <= rows; r += kRows)
    panel_product<kRows>(a + r * row, row, deep, b, b_step, depth, c + r * c_step, c_step, add);
  a += r * row;
  c += r * c_step;
  switch (rows - r) {
    case 1: panel_product<1>(a, row, deep, b, b_step, depth, c, c_step, add); break;
    case 2: panel_product<2>(a, row, deep, b, b_step, depth, c, c_step, add); break;
    case 3: panel_product<3>(a, row, deep, b, b_step, depth, c, c_step, add); break;
    case 4: panel_product<4>(a, row, deep, b, b_step, depth, c, c_step, add); break;
    case 5: panel_product<5>(a, row, deep, b, b_step, depth, c, c_step, add); break;
  }
}

struct Buffer {  // memory of one call, on a border of the cache lines
  float* data;
  explicit Buffer(long floats) : data(static_cast<float*>(std::aligned_alloc(64, (floats * 4 + 63) / 64 * 64))) {}
  ~Buffer() { std::free(data); }
  Buffer(const Buffer&) = delete;
};

}  // namespace

// A network's first convolution over grey images: 7 x 7 taps, stride 2, padding 3, one input channel, float32.
//
// The pixels under the taps of each output pixel are laid side by side, a row of the output at a time; the rest is
// plain matrix products. Called by ../grey.py.

#include <omp.h>

#include <algorithm>
#include <cstring>

#include "vectors.h"

namespace {

constexpr int kSide = 7, kTaps = kSide * kSide, kStride = 2, kBefore = 3;
constexpr int kImages = 8;  // whose gradients are summed first: the same sums for any number of threads

struct Image {  // one image with its padding; `row` lays out what one row of the output sees
  int size, out, wide;
  Buffer padded, pixels;

  explicit Image(int size)
      : size(size),
        out((size - 1) / kStride + 1),
        wide(size + 2 * kBefore),
        padded(long(wide) * wide),
        pixels(long(out) * kTaps) {
    if (padded.data) std::fill(padded.data, padded.data + long(wide) * wide, 0.f);
  }

  bool ready() const { return padded.data && pixels.data; }

  void take(const float* x) {
    for (int y = 0; y < size; ++y)
      std::memcpy(padded.data + long(y + kBefore) * wide + kBefore, x + long(y) * size, size * sizeof(float));
  }

  const float* row(int y) {  // (out, kTaps)
    for (int x = 0; x < out; ++x)
      for (int i = 0; i < kSide; ++i)
        std::memcpy(pixels.data + long(x) * kTaps + i * kSide,
                    padded.data + long(y * kStride + i) * wide + x * kStride, kSide * sizeof(float));
    return pixels.data;
  }
};

}  // namespace

extern "C" {

// x (images, size, size), taps (7 * 7, outputs) -> y (images, out, out, outputs). Returns 0, or 1 without memory.
int grey_convolve(const float* x, const float* taps, float* y, int images, int size, int outputs, int threads) {
  int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
  {
    Image image(size);
    failed = !image.ready();
#pragma omp for schedule(static)
    for (int n = 0; n < images; ++n) {
      if (failed) continue;
      image.take(x + long(n) * size * size);
      for (int row = 0; row < image.out; ++row) {
        float* target = y + (long(n) * image.out + row) * image.out * outputs;
        const float* pixels = image.row(row);
        for (int d = 0; d < outputs; d += kPanel)
          rows_product(image.out, pixels, kTaps, 1, taps + d, outputs, kTaps, target + d, outputs, false);
      }
    }
  }
  return failed;
}

// x (images, size, size), gradient (images, out, out, outputs) -> taps (7 * 7, outputs): their gradient. Returns 0, or
// 1 without memory.
int grey_gradient(const float* x, const float* gradient, float* taps, int images, int size, int outputs, int threads) {
  const long one = long(kTaps) * outputs, groups = (images + kImages - 1) / kImages;
  Buffer sums(groups * one);
  if (!sums.data) return 1;
  int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
  {
    Image image(size);
    failed = !image.ready();
#pragma omp for schedule(static)
    for (long group = 0; group < groups; ++group) {
      if (failed) continue;
      float* sum = sums.data + group * one;
      const int first = group * kImages;
      for (int n = first; n < std::min(first + kImages, images); ++n) {
        image.take(x + long(n) * size * size);
        for (int row = 0; row < image.out; ++row) {
          const float* source = gradient + (long(n) * image.out + row) * image.out * outputs;
          const float* pixels = image.row(row);
          for (int d = 0; d < outputs; d += kPanel)
            rows_product(kTaps, pixels, 1, kTaps, source + d, outputs, image.out, sum + d, outputs,
                         n > first || row > 0);
        }
      }
    }
  }
  std::fill(taps, taps + one, 0.f);
  for (long group = 0; group < groups; ++group)
    for (long i = 0; i < one; ++i) taps[i] += sums.data[group * one + i];
  return failed;
}

}  // extern "C"

// The forms in which winograd.cpp convolves:
// - Winograd's F(4 x 4, 3 x 3): a tile of 6 x 6 input pixels gives 4 x 4 output pixels by 36 products instead of 144.
//   Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.3.
// - F(3 x 3, 3 x 3): a tile of 5 x 5 gives 3 x 3 by 25 instead of 81; from the points 0, 1, -1, 2 and infinity.
// - A whole map of 2 x 2 pixels by 9 products instead of 16 (those of the 36 taps that do not fall on padding): along
//   one direction it is the product of a 2 x 2 Toeplitz matrix, y0 = w1 x0 + w2 x1, y1 = w0 x0 + w1 x1, which is
//   y0 = w1 (x0 + x1) + (w2 - w1) x1, y1 = w1 (x0 + x1) + (w0 - w1) x0.
#pragma once

#include "vectors.h"

namespace {

// The transforms of a form, in one direction, from `in` to `out` with the given distances between elements.
struct Tiles4 {
  static constexpr int kPixels = 4, kInput = 6, kBefore = 1;  // a tile's output, its input, where that begins
  static constexpr int kSide = 6, kPoints = kSide * kSide;

  static inline void input(const Vec* in, int from, Vec* out, int to) {  // B^T d: 6 -> 6
    const Vec a = in[0], b = in[from], c = in[2 * from], d = in[3 * from], e = in[4 * from], f = in[5 * from];
    const Vec even = e - 4.f * c, odd = d - 4.f * b, even2 = e - c, odd2 = 2.f * (d - b);
    out[0] = 4.f * a - 5.f * c + e;
    out[to] = even + odd;
    out[2 * to] = even - odd;
    out[3 * to] = even2 + odd2;
    out[4 * to] = even2 - odd2;
    out[5 * to] = 4.f * b - 5.f * d + f;
  }

  static inline void output(const Vec* in, int from, Vec* out, int to) {  // A^T m: 6 -> 4
    const Vec a = in[0], b = in[from], c = in[2 * from], d = in[3 * from], e = in[4 * from], f = in[5 * from];
    const Vec sum = b + c, difference = b - c, sum2 = d + e, difference2 = d - e;
    out[0] = a + sum + sum2;
    out[to] = difference + 2.f * difference2;
    out[2 * to] = sum + 4.f * sum2;
    out[3 * to] = difference + 8.f * difference2 + f;
  }

  static inline void gradient(const Vec* in, int from, Vec* out, int to) {  // A g: 4 -> 6, the adjoint of output
    const Vec a = in[0], b = in[from], c = in[2 * from], d = in[3 * from];
    const Vec even = a + c, odd = b + d, even2 = a + 4.f * c, odd2 = 2.f * b + 8.f * d;
    out[0] = a;
    out[to] = even + odd;
    out[2 * to] = even - odd;
    out[3 * to] = even2 + odd2;
    out[4 * to] = even2 - odd2;
    out[5 * to] = d;
  }

  static inline void taps(const Vec* in, int from, Vec* out, int to) {  // G w: 3 -> 6
    const Vec a = in[0], b = in[from], c = in[2 * from];
    const Vec near = (a + c) * (-1.f / 6), far = a * (1.f / 24) + c * (1.f / 6);
    out[0] = a * .25f;
    out[to] = near - b * (1.f / 6);
    out[2 * to] = near + b * (1.f / 6);
    out[3 * to] = far + b * (1.f / 12);
    out[4 * to] = far - b * (1.f / 12);
    out[5 * to] = c;
  }

  static inline void taps_gradient(const Vec* in, int from, Vec* out, int to) {  // G^T u: 6 -> 3, the adjoint of taps
    const Vec a = in[0], b = in[from], c = in[2 * from], d = in[3 * from], e = in[4 * from], f = in[5 * from];
    const Vec sum = b + c, sum2 = d + e;
    out[0] = a * .25f - sum * (1.f / 6) + sum2 * (1.f / 24);
    out[to] = (c - b) * (1.f / 6) + (d - e) * (1.f / 12);
    out[2 * to] = (sum2 - sum) * (1.f / 6) + f;
  }
};

struct Tiles3 {
  static constexpr int kPixels = 3, kInput = 5, kBefore = 1;
  static constexpr int kSide = 5, kPoints = kSide * kSide;

  static inline void input(const Vec* in, int from, Vec* out, int to) {
    const Vec a = in[0], b = in[from], c = in[2 * from], d = in[3 * from], e = in[4 * from];
    const Vec odd = d - b;
    out[0] = 2.f * (a - c) + odd;
    out[to] = odd - b - c;
    out[2 * to] = d + 2.f * b - 3.f * c;
    out[3 * to] = odd;
    out[4 * to] = e - c - 2.f * odd;
  }

  static inline void output(const Vec* in, int from, Vec* out, int to) {
    const Vec a = in[0], b = in[from], c = in[2 * from], d = in[3 * from], e = in[4 * from];
    const Vec sum = b + c;
    out[0] = a + sum + d;
    out[to] = b - c + 2.f * d;
    out[2 * to] = sum + 4.f * d + e;
  }

  static inline void gradient(const Vec* in, int from, Vec* out, int to) {  // the adjoint of output
    const Vec a = in[0], b = in[from], c = in[2 * from];
    const Vec even = a + c;
    out[0] = a;
    out[to] = even + b;
    out[2 * to] = even - b;
    out[3 * to] = a + 2.f * b + 4.f * c;
    out[4 * to] = c;
  }

  static inline void taps(const Vec* in, int from, Vec* out, int to) {
    const Vec a = in[0], b = in[from], c = in[2 * from];
    const Vec even = a + c;
    out[0] = .5f * a;
    out[to] = -.5f * (even + b);
    out[2 * to] = (b - even) * (1.f / 6);
    out[3 * to] = (a + 2.f * b + 4.f * c) * (1.f / 6);
    out[4 * to] = c;
  }

  static inline void taps_gradient(const Vec* in, int from, Vec* out, int to) {  // the adjoint of taps
    const Vec a = in[0], b = in[from] * .5f, c = in[2 * from] * (1.f / 6), d = in[3 * from] * (1.f / 6);
    out[0] = .5f * a - b - c + d;
    out[to] = c - b + 2.f * d;
    out[2 * to] = 4.f * d - b - c + in[4 * from];
  }
};

struct Map2 {
  static constexpr int kPixels = 2, kInput = 2, kBefore = 0;
  static constexpr int kSide = 3, kPoints = kSide * kSide;

  static inline void input(const Vec* in, int from, Vec* out, int to) {
    out[0] = in[0] + in[from];
    out[to] = in[from];
    out[2 * to] = in[0];
  }

  static inline void output(const Vec* in, int from, Vec* out, int to) {
    out[0] = in[0] + in[from];
    out[to] = in[0] + in[2 * from];
  }

  static inline void gradient(const Vec* in, int from, Vec* out, int to) {  // the adjoint of output
    out[0] = in[0] + in[from];
    out[to] = in[0];
    out[2 * to] = in[from];
  }

  static inline void taps(const Vec* in, int from, Vec* out, int to) {
    out[0] = in[from];
    out[to] = in[2 * from] - in[from];
    out[2 * to] = in[0] - in[from];
  }

  static inline void taps_gradient(const Vec* in, int from, Vec* out, int to) {  // the adjoint of taps
    out[0] = in[2 * from];
    out[to] = in[0] - in[from] - in[2 * from];
    out[2 * to] = in[from];
  }
};

}  // namespace

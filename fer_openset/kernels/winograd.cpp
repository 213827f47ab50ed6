// 3 x 3 convolutions, stride 1, padding 1, of channels-last maps, with fewer multiplications, float32.
//
// Input tiles and taps are brought into a form (forms.h) in which a convolution is a number of plain matrix products
// over the channels, and the products out of it; tiles in blocks that stay in the cache. Called by ../winograd.py.

#include <omp.h>

#include <algorithm>

#include "forms.h"
#include "vectors.h"

namespace {

constexpr int kSkew = 16;  // floats between the matrices of a form: distances of a power of two would share cache lines

typedef void (*Transform)(const Vec*, int, Vec*, int);

template <Transform transform, int kIn, int kOut>
inline void both_directions(const Vec* in, Vec* out) {  // (kIn, kIn) -> (kOut, kOut)
  Vec half[kOut * kIn];
  for (int j = 0; j < kIn; ++j) transform(in + j, kIn, half + j, kIn);
  for (int i = 0; i < kOut; ++i) transform(half + i * kIn, 1, out + i * kOut, 1);
}

struct Map {  // a batch of channels-last maps, `across` x `across` tiles each
  int size, channels, across;
  long pixel(int image, int y, int x) const { return ((long(image) * size + y) * size + x) * channels; }
};

// Tiles of kTile x kTile pixels, which begin kBefore before their output pixels, into one matrix (count, channels) for
// each point of the form, `step` floats apart; zero outside the map.
template <class Form, int kTile, int kBefore, Transform transform>
void into_form(const float* x, const Map& map, int first, int count, float* block, long step) {
  constexpr int kPoints = Form::kPoints;
  const int per_image = map.across * map.across;
  for (int t = 0; t < count; ++t) {
    const int image = (first + t) / per_image, place = (first + t) % per_image;
    const int top = place / map.across * Form::kPixels - kBefore, left = place % map.across * Form::kPixels - kBefore;
    for (int c = 0; c < map.channels; c += kLanes) {
      Vec in[kTile * kTile], out[kPoints];
      for (int i = 0; i < kTile; ++i)
        for (int j = 0; j < kTile; ++j) {
          const int y = top + i, xx = left + j;
          const bool inside = y >= 0 && y < map.size && xx >= 0 && xx < map.size;
          in[i * kTile + j] = inside ? load(x + map.pixel(image, y, xx) + c) : Vec{};
        }
      both_directions<transform, kTile, Form::kSide>(in, out);
      for (int p = 0; p < kPoints; ++p) store(block + p * step + long(t) * map.channels + c, out[p]);
    }
  }
}

template <class Form>
void out_of_form(const float* block, long step, const Map& map, int first, int count, float* y) {
  constexpr int kPoints = Form::kPoints, kPixels = Form::kPixels;
  const int per_image = map.across * map.across;
  for (int t = 0; t < count; ++t) {
    const int image = (first + t) / per_image, place = (first + t) % per_image;
    const int top = place / map.across * kPixels, left = place % map.across * kPixels;
    for (int d = 0; d < map.channels; d += kLanes) {
      Vec in[kPoints], out[kPixels * kPixels];
      for (int p = 0; p < kPoints; ++p) in[p] = load(block + p * step + long(t) * map.channels + d);
      both_directions<Form::output, Form::kSide, kPixels>(in, out);
      for (int i = 0; i < std::min(kPixels, map.size - top); ++i)
        for (int j = 0; j < std::min(kPixels, map.size - left); ++j)
          store(y + map.pixel(image, top + i, left + j) + d, out[i * kPixels + j]);
    }
  }
}

// The weight of a layer lies in memory as (outputs, 3, 3, inputs). Packed, there is for each point of the form a matrix
// (outputs / kPanel, inputs, kPanel), or with the two exchanged.
inline long packed_place(int in, int out, int inputs) {
  return (long(out / kPanel) * inputs + in) * kPanel + out % kPanel;
}

// For a convolution from the layer's inputs to its outputs.
template <class Form>
void pack(const float* weight, int inputs, int outputs, float* packed, int threads) {
  constexpr int kPoints = Form::kPoints;
  const long step = long(inputs) * outputs + kSkew;
#pragma omp parallel for collapse(2) num_threads(threads)
  for (int panel = 0; panel < outputs; panel += kPanel)
    for (int c = 0; c < inputs; c += kLanes)
      for (int d = panel; d < panel + kPanel; d += kLanes) {
        Vec points[kPoints * kLanes];
        for (int r = 0; r < kLanes; ++r) {
          Vec in[9], out[kPoints];
          for (int i = 0; i < 9; ++i) in[i] = load(weight + (long(d + r) * 9 + i) * inputs + c);
          both_directions<Form::taps, 3, Form::kSide>(in, out);
          for (int p = 0; p < kPoints; ++p) points[p * kLanes + r] = out[p];
        }
        for (int p = 0; p < kPoints; ++p) {
          transpose(points + p * kLanes);
          for (int r = 0; r < kLanes; ++r)
            store(packed + p * step + packed_place(c + r, d, inputs), points[p * kLanes + r]);
        }
      }
}

// For the gradient of x: a convolution from the layer's outputs to its inputs, the taps turned round.
template <class Form>
void pack_turned(const float* weight, int inputs, int outputs, float* packed, int threads) {
  constexpr int kPoints = Form::kPoints;
  const long step = long(inputs) * outputs + kSkew;
#pragma omp parallel for num_threads(threads)
  for (int d = 0; d < outputs; ++d)
    for (int c = 0; c < inputs; c += kLanes) {
      Vec in[9], out[kPoints];
      for (int i = 0; i < 9; ++i) in[i] = load(weight + (long(d) * 9 + 8 - i) * inputs + c);
      both_directions<Form::taps, 3, Form::kSide>(in, out);
      for (int p = 0; p < kPoints; ++p) store(packed + p * step + packed_place(d, c, outputs), out[p]);
    }
}

// x (images, size, size, inputs), packed taps -> y (images, size, size, outputs). Returns 0, or 1 without memory.
template <class Form>
int convolve(const float* x, const float* packed, float* y, int images, int size, int inputs, int outputs, int block,
             int threads) {
  constexpr int kPoints = Form::kPoints;
  const int across = (size + Form::kPixels - 1) / Form::kPixels, tiles = images * across * across;
  const Map from{size, inputs, across}, to{size, outputs, across};
  const long in_step = long(block) * inputs + kSkew, out_step = long(block) * outputs + kSkew;
  Buffer blocks(kPoints * (in_step + out_step) * threads);
  if (!blocks.data) return 1;
#pragma omp parallel num_threads(threads)
  {
    float* v = blocks.data + kPoints * (in_step + out_step) * omp_get_thread_num();
    float* m = v + kPoints * in_step;
#pragma omp for schedule(dynamic)
    for (int first = 0; first < tiles; first += block) {
      const int count = std::min(block, tiles - first);
      into_form<Form, Form::kInput, Form::kBefore, Form::input>(x, from, first, count, v, in_step);
      for (int p = 0; p < kPoints; ++p) {
        const float* taps = packed + p * (long(inputs) * outputs + kSkew);
        for (int d = 0; d < outputs; d += kPanel)
          rows_product(count, v + p * in_step, inputs, 1, taps + long(d) * inputs, kPanel, inputs, m + p * out_step + d,
                       outputs, false);
      }
      out_of_form<Form>(m, out_step, to, first, count, y);
    }
  }
  return 0;
}

// x (images, size, size, inputs), gradient (images, size, size, outputs) -> weight (outputs, 3, 3, inputs): its
// gradient. Returns 0, or 1 without memory.
template <class Form>
int weight_gradient(const float* x, const float* gradient, float* weight, int images, int size, int inputs, int outputs,
                  int block, int threads) {
  constexpr int kPoints = Form::kPoints;
  const int across = (size + Form::kPixels - 1) / Form::kPixels, tiles = images * across * across;
  const Map from{size, inputs, across}, to{size, outputs, across};
  const long in_step = long(block) * inputs + kSkew, out_step = long(block) * outputs + kSkew;
  const long all_taps = long(inputs) * outputs;
  Buffer v(kPoints * in_step), m(kPoints * out_step), u(kPoints * (all_taps + kSkew));
  if (!v.data || !m.data || !u.data) return 1;
  const int piece = 8;  // tiles that one thread brings into form at a time
#pragma omp parallel num_threads(threads)
  {
    for (int first = 0; first < tiles; first += block) {
      const int count = std::min(block, tiles - first);
#pragma omp for schedule(static)
      for (int t = 0; t < count; t += piece) {
        const int some = std::min(piece, count - t);
        into_form<Form, Form::kInput, Form::kBefore, Form::input>(x, from, first + t, some, v.data + long(t) * inputs,
                                                                  in_step);
        into_form<Form, Form::kPixels, 0, Form::gradient>(gradient, to, first + t, some, m.data + long(t) * outputs,
                                                          out_step);
      }
#pragma omp for schedule(dynamic)
      for (int p = 0; p < kPoints; ++p)
        for (int c = 0; c < inputs; c += kPanel)
          rows_product(outputs, m.data + p * out_step, 1, outputs, v.data + p * in_step + c, inputs, count,
                       u.data + p * (all_taps + kSkew) + c, inputs, first > 0);
    }
#pragma omp for schedule(static)
    for (int d = 0; d < outputs; ++d)
      for (int c = 0; c < inputs; c += kLanes) {
        Vec in[kPoints], out[9];
        for (int p = 0; p < kPoints; ++p) in[p] = load(u.data + p * (all_taps + kSkew) + long(d) * inputs + c);
        both_directions<Form::taps_gradient, Form::kSide, 3>(in, out);
        for (int i = 0; i < 9; ++i) store(weight + (long(d) * 9 + i) * inputs + c, out[i]);
      }
  }
  return 0;
}

enum { kTiles4, kTiles3, kMap2 };  // as winograd.py counts them

template <class... Rest>
int convolve_in(int form, Rest... rest) {
  if (form == kMap2) return convolve<Map2>(rest...);
  return form == kTiles3 ? convolve<Tiles3>(rest...) : convolve<Tiles4>(rest...);
}

template <class... Rest>
int weight_gradient_in(int form, Rest... rest) {
  if (form == kMap2) return weight_gradient<Map2>(rest...);
  return form == kTiles3 ? weight_gradient<Tiles3>(rest...) : weight_gradient<Tiles4>(rest...);
}

template <class Form>
void pack_for(const float* weight, int inputs, int outputs, int turned, float* packed, int threads) {
  (turned ? pack_turned<Form> : pack<Form>)(weight, inputs, outputs, packed, threads);
}

}  // namespace

extern "C" {

int winograd_panel() { return kPanel; }

long winograd_packed(int form, int inputs, int outputs) {  // floats
  const int points = form == kMap2 ? Map2::kPoints : form == kTiles3 ? Tiles3::kPoints : Tiles4::kPoints;
  return points * (long(inputs) * outputs + kSkew);
}

// inputs, outputs: those of the layer. turned: for the gradient of x.
void winograd_pack(const float* weight, int form, int inputs, int outputs, int turned, float* packed, int threads) {
  const auto pack = form == kMap2 ? pack_for<Map2> : form == kTiles3 ? pack_for<Tiles3> : pack_for<Tiles4>;
  pack(weight, inputs, outputs, turned, packed, threads);
}

// size: pixels a side of the map, 2 for kMap2. All return 0, or 1 without memory.
int winograd_convolve(const float* x, const float* packed, float* y, int form, int images, int size, int inputs,
                      int outputs, int block, int threads) {
  return convolve_in(form, x, packed, y, images, size, inputs, outputs, block, threads);
}

int winograd_weight_gradient(const float* x, const float* gradient, float* weight, int form, int images, int size,
                             int inputs, int outputs, int block, int threads) {
  return weight_gradient_in(form, x, gradient, weight, images, size, inputs, outputs, block, threads);
}

}  // extern "C"

// The arithmetic of Pillow's Resample.c: weights in 22-bit fixed point, one axis after the other, rounded to
// bytes in between.
#include "resize.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace runner {

namespace {

constexpr int kBits = 32 - 8 - 2;  // a byte, the sign, and one bit for weights that overshoot

double bilinear(double x) {
  x = std::abs(x);
  return x < 1 ? 1 - x : 0;
}

double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

struct Taps {
  int first = 0;
  std::vector<int> weights;
};

std::vector<Taps> taps(int from, int to, bool cubic) {
  const double scale = static_cast<double>(from) / to;
  const double stretch = std::max(scale, 1.0);
  const double support = (cubic ? 2.0 : 1.0) * stretch;
  std::vector<Taps> all(to);
  for (int i = 0; i < to; ++i) {
    const double centre = (i + 0.5) * scale;
    const int first = std::max(static_cast<int>(centre - support + 0.5), 0);
    const int last = std::min(static_cast<int>(centre + support + 0.5), from);
    std::vector<double> weights(last - first);
    double sum = 0;
    for (int k = 0; k < last - first; ++k) {
      const double x = (k + first - centre + 0.5) * (1.0 / stretch);
      weights[k] = cubic ? bicubic(x) : bilinear(x);
      sum += weights[k];
    }
    all[i].first = first;
    for (double weight : weights) {
      if (sum != 0) weight /= sum;
      all[i].weights.push_back(static_cast<int>((weight < 0 ? -0.5 : 0.5) + weight * (1 << kBits)));
    }
  }
  return all;
}

std::uint8_t byte(int sum) { return static_cast<std::uint8_t>(std::clamp(sum >> kBits, 0, 255)); }

// `step` bytes lie between two pixels along the axis that is resized, `others` lines of it lie `stride` bytes apart.
void resample(const std::uint8_t* in, std::uint8_t* out, const std::vector<Taps>& all, int others, int in_step,
              int out_step, int in_stride, int out_stride) {
  for (int line = 0; line < others; ++line) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      const std::uint8_t* pixel = in + line * in_stride + all[i].first * in_step;
      int sums[3] = {1 << (kBits - 1), 1 << (kBits - 1), 1 << (kBits - 1)};
      for (const int weight : all[i].weights) {
        for (int c = 0; c < 3; ++c) sums[c] += pixel[c] * weight;
        pixel += in_step;
      }
      std::uint8_t* to = out + line * out_stride + static_cast<int>(i) * out_step;
      for (int c = 0; c < 3; ++c) to[c] = byte(sums[c]);
    }
  }
}

// A part of a larger picture, black where that ends.
Picture cut(const Picture& picture, int top, int left, int height, int width) {
  Picture out{height, width, std::vector<std::uint8_t>(3u * height * width)};
  for (int row = 0; row < height; ++row) {
    const int from = row + top;
    if (from < 0 || from >= picture.height) continue;
    const int start = std::max(0, -left), stop = std::min(width, picture.width - left);
    if (stop <= start) continue;
    std::copy_n(&picture.pixels[3u * (static_cast<std::size_t>(from) * picture.width + left + start)],
                3u * (stop - start), &out.pixels[3u * (static_cast<std::size_t>(row) * width + start)]);
  }
  return out;
}

Picture columns_to(Picture picture, int width, bool cubic) {
  if (width == picture.width) return picture;
  Picture out{picture.height, width, std::vector<std::uint8_t>(3u * picture.height * width)};
  resample(picture.pixels.data(), out.pixels.data(), taps(picture.width, width, cubic), picture.height, 3, 3,
           3 * picture.width, 3 * width);
  return out;
}

Picture rows_to(Picture picture, int height, bool cubic) {
  if (height == picture.height) return picture;
  const int width = picture.width;
  Picture out{height, width, std::vector<std::uint8_t>(3u * height * width)};
  resample(picture.pixels.data(), out.pixels.data(), taps(picture.height, height, cubic), width, 3 * width, 3 * width,
           3, 3);
  return out;
}

}  // namespace

Picture resized(const Picture& picture, int height, int width, bool cubic) {
  // Which way first decides what is rounded in between. Pillow 13 was asked on 1,500 random sizes.
  const bool rows_first = picture.height - height > 2 * std::max(picture.width - width, 0);
  if (rows_first) return columns_to(rows_to(picture, height, cubic), width, cubic);
  return rows_to(columns_to(picture, width, cubic), height, cubic);
}

Picture fitted(const Picture& picture, const Fit& fit) {
  const int h = picture.height, w = picture.width;
  if (fit.rule == "stretch") return resized(picture, fit.height, fit.width, fit.cubic);
  if (fit.rule == "letterbox") {
    const double scale = std::min(static_cast<double>(fit.height) / h, static_cast<double>(fit.width) / w);
    const int rows = std::min(std::max(static_cast<int>(h * scale + 0.5), 1), fit.height);
    const int columns = std::min(std::max(static_cast<int>(w * scale + 0.5), 1), fit.width);
    return cut(resized(picture, rows, columns, fit.cubic), 0, 0, fit.height, fit.width);
  }
  if (fit.rule != "shortest") throw std::runtime_error("unknown rule to fit a picture: " + fit.rule);
  const int size = fit.height;
  const int wide = static_cast<int>(static_cast<double>(size) * std::max(h, w) / std::min(h, w));
  const int rows = w <= h ? wide : size, columns = w <= h ? size : wide;
  // Halves go to the even neighbour, as Python's round does (nearbyint in the default rounding mode).
  const int left = static_cast<int>(std::nearbyint((columns - size) / 2.0));
  const int top = static_cast<int>(std::nearbyint((rows - size) / 2.0));
  return cut(resized(picture, rows, columns, fit.cubic), top, left, size, size);
}

}  // namespace runner

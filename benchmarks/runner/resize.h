// Pillow's resize of 8-bit RGB with antialias, bit for bit, since the known answers and the apps were made with it.
#pragma once

#include <cstdint>
#include <vector>

#include "job.h"

namespace runner {

struct Picture {
  int height = 0, width = 0;
  std::vector<std::uint8_t> pixels;  // RGB, row by row
};

// As Pillow's `resize((width, height), BICUBIC or BILINEAR)`.
Picture resized(const Picture& picture, int height, int width, bool cubic);

// What the tower sees: `shortest` side and the centre of it, `stretch`, or `letterbox` with zeros right and below.
Picture fitted(const Picture& picture, const Fit& fit);

}  // namespace runner

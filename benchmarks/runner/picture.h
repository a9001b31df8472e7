// From an encoded picture to an input, and from the first output to what an app shows.
#pragma once

#include <string>
#include <vector>

#include "resize.h"

namespace runner {

// What decodes here, for the log: `AImageDecoder`, `libjpeg libpng`, or nothing.
std::string decoder();

// JPEG or PNG in memory. Throws std::runtime_error where it is broken or nothing here decodes it.
Picture decoded(const std::vector<unsigned char>& file);

// RGB bytes -> float32 [3, H, W], each byte times `scale`.
void planar(const Picture& picture, float scale, float* out);

// What an app makes of an output of `count` values: `normalise` (to unit length), `argmax` over the classes of
// [1, K, h, w] and the best class of each pixel of the picture, `labels` (the same from [1, 1, h, w] int32).
void finished(const std::string& kind, const void* values, const std::vector<int>& shape, const Picture& picture);

}  // namespace runner

#include "picture.h"

#include <dlfcn.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <stdexcept>

#ifdef RUNNER_JPEG
#include <csetjmp>
#include <jpeglib.h>
#endif
#ifdef RUNNER_PNG
#include <png.h>
#endif

namespace runner {

namespace {

constexpr std::size_t kMostPixels = 178956970;  // Pillow's limit, as in mobileclip/preprocessing.py

void bounded(std::size_t width, std::size_t height) {
  if (width == 0 || height == 0 || width > kMostPixels / height) throw std::runtime_error("the picture is too large");
}

// Android's own decoder (API 30), found at run time so that one binary serves older systems too.
struct AndroidDecoder {
  void* library = dlopen("libjnigraphics.so", RTLD_NOW);
  template <typename F>
  F* get(const char* name) const {
    return library == nullptr ? nullptr : reinterpret_cast<F*>(dlsym(library, name));
  }
  int (*create)(const void*, std::size_t, void**) =
      get<int(const void*, std::size_t, void**)>("AImageDecoder_createFromBuffer");
  const void* (*header)(const void*) = get<const void*(const void*)>("AImageDecoder_getHeaderInfo");
  std::int32_t (*width)(const void*) = get<std::int32_t(const void*)>("AImageDecoderHeaderInfo_getWidth");
  std::int32_t (*height)(const void*) = get<std::int32_t(const void*)>("AImageDecoderHeaderInfo_getHeight");
  int (*format)(void*, std::int32_t) = get<int(void*, std::int32_t)>("AImageDecoder_setAndroidBitmapFormat");
  int (*decode)(void*, void*, std::size_t, std::size_t) =
      get<int(void*, void*, std::size_t, std::size_t)>("AImageDecoder_decodeImage");
  void (*free)(void*) = get<void(void*)>("AImageDecoder_delete");
  bool there() const { return create && header && width && height && format && decode && free; }
};

const AndroidDecoder& android() {
  static const AndroidDecoder decoder;
  return decoder;
}

Picture by_android(const std::vector<unsigned char>& file) {
  void* decoder = nullptr;
  if (android().create(file.data(), file.size(), &decoder) != 0) throw std::runtime_error("the picture is broken");
  const void* header = android().header(decoder);
  Picture picture{android().height(header), android().width(header), {}};
  bounded(picture.width, picture.height);
  const std::size_t stride = 4u * picture.width;
  std::vector<std::uint8_t> rgba(stride * picture.height);
  constexpr std::int32_t kRgba8888 = 1;
  const bool good = android().format(decoder, kRgba8888) == 0 &&
                    android().decode(decoder, rgba.data(), stride, rgba.size()) == 0;
  android().free(decoder);
  if (!good) throw std::runtime_error("the picture is broken");
  picture.pixels.resize(rgba.size() / 4 * 3);
  for (std::size_t i = 0; i < rgba.size() / 4; ++i) {
    for (int c = 0; c < 3; ++c) picture.pixels[3 * i + c] = rgba[4 * i + c];
  }
  return picture;
}

#ifdef RUNNER_JPEG
struct JpegError {
  jpeg_error_mgr base;
  std::jmp_buf back;
};

Picture by_jpeg(const std::vector<unsigned char>& file) {
  Picture picture;
  jpeg_decompress_struct state{};
  JpegError error{};
  state.err = jpeg_std_error(&error.base);
  error.base.error_exit = [](j_common_ptr common) { std::longjmp(reinterpret_cast<JpegError*>(common->err)->back, 1); };
  error.base.output_message = [](j_common_ptr) {};
  if (setjmp(error.back)) {
    jpeg_destroy_decompress(&state);
    throw std::runtime_error("the picture is broken");
  }
  jpeg_create_decompress(&state);
  jpeg_mem_src(&state, file.data(), file.size());
  jpeg_read_header(&state, TRUE);
  state.out_color_space = JCS_RGB;
  if (state.image_width == 0 || state.image_height == 0 || state.image_width > kMostPixels / state.image_height) {
    error.base.error_exit(reinterpret_cast<j_common_ptr>(&state));
  }
  jpeg_start_decompress(&state);
  picture.width = static_cast<int>(state.output_width);
  picture.height = static_cast<int>(state.output_height);
  picture.pixels.resize(3u * picture.width * picture.height);
  while (state.output_scanline < state.output_height) {
    JSAMPROW row = &picture.pixels[3u * state.output_scanline * picture.width];
    jpeg_read_scanlines(&state, &row, 1);
  }
  jpeg_finish_decompress(&state);
  jpeg_destroy_decompress(&state);
  return picture;
}
#endif

#ifdef RUNNER_PNG
Picture by_png(const std::vector<unsigned char>& file) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  if (!png_image_begin_read_from_memory(&image, file.data(), file.size())) {
    throw std::runtime_error("the picture is broken");
  }
  image.format = PNG_FORMAT_RGB;
  Picture picture{static_cast<int>(image.height), static_cast<int>(image.width), {}};
  if (image.height == 0 || image.width > kMostPixels / image.height) {
    png_image_free(&image);
    throw std::runtime_error("the picture is too large");
  }
  picture.pixels.resize(PNG_IMAGE_SIZE(image));
  if (!png_image_finish_read(&image, nullptr, picture.pixels.data(), 0, nullptr)) {
    throw std::runtime_error("the picture is broken");
  }
  return picture;
}
#endif

// The class of each pixel of the picture from maps of another size: the nearest place's.
void coloured(const std::vector<std::uint8_t>& classes, int h, int w, const Picture& picture) {
  std::vector<std::uint8_t> shown(3u * picture.height * picture.width);
  std::size_t at = 0;
  for (int row = 0; row < picture.height; ++row) {
    const std::uint8_t* line = &classes[static_cast<std::size_t>(row * static_cast<long long>(h) / picture.height) * w];
    for (int column = 0; column < picture.width; ++column) {
      const std::uint8_t label = line[column * static_cast<long long>(w) / picture.width];
      for (int c = 0; c < 3; ++c, ++at) {
        shown[at] = static_cast<std::uint8_t>((picture.pixels[at] + label * (37 + 40 * c)) / 2);
      }
    }
  }
  volatile std::uint8_t kept = shown.back();  // the work is wanted, its result is not
  (void)kept;
}

}  // namespace

std::string decoder() {
  if (android().there()) return "AImageDecoder";
  std::string names;
#ifdef RUNNER_JPEG
  names += "libjpeg ";
#endif
#ifdef RUNNER_PNG
  names += "libpng ";
#endif
  return names.empty() ? names : names.substr(0, names.size() - 1);
}

Picture decoded(const std::vector<unsigned char>& file) {
  if (android().there()) return by_android(file);
#ifdef RUNNER_JPEG
  if (file.size() > 2 && file[0] == 0xff && file[1] == 0xd8) return by_jpeg(file);
#endif
#ifdef RUNNER_PNG
  if (file.size() > 4 && file[0] == 0x89 && file[1] == 'P') return by_png(file);
#endif
  throw std::runtime_error("nothing here decodes the picture (JPEG and PNG are, where their libraries were there)");
}

void planar(const Picture& picture, float scale, float* out) {
  const std::size_t plane = static_cast<std::size_t>(picture.height) * picture.width;
  for (int c = 0; c < 3; ++c) {
    for (std::size_t i = 0; i < plane; ++i) out[c * plane + i] = static_cast<float>(picture.pixels[3 * i + c]) * scale;
  }
}

void finished(const std::string& kind, const void* values, const std::vector<int>& shape, const Picture& picture) {
  const auto* floats = static_cast<const float*>(values);
  std::size_t count = 1;
  for (const int side : shape) count *= side;
  if (kind == "normalise") {
    double squares = 0;
    for (std::size_t i = 0; i < count; ++i) squares += static_cast<double>(floats[i]) * floats[i];
    const float factor = static_cast<float>(1 / std::sqrt(squares));
    std::vector<float> unit(count);
    for (std::size_t i = 0; i < count; ++i) unit[i] = floats[i] * factor;
    volatile float kept = unit.back();
    (void)kept;
  } else if ((kind == "argmax" || kind == "labels") && shape.size() >= 2) {
    const int h = shape[shape.size() - 2], w = shape.back();
    const std::size_t plane = static_cast<std::size_t>(h) * w;
    std::vector<std::uint8_t> classes(plane);
    for (std::size_t i = 0; i < plane; ++i) {
      if (kind == "labels") {
        classes[i] = static_cast<std::uint8_t>(static_cast<const std::int32_t*>(values)[i]);
        continue;
      }
      std::size_t best = 0;
      for (std::size_t k = 1; k < count / plane; ++k) {
        if (floats[k * plane + i] > floats[best * plane + i]) best = k;
      }
      classes[i] = static_cast<std::uint8_t>(best);
    }
    coloured(classes, h, w, picture);
  }
}

}  // namespace runner

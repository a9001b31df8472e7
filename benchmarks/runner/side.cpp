#include "side.h"

#include <cstdio>
#include <stdexcept>

#include <executorch/runtime/backend/interface.h>

#include "log.h"
#include "picture.h"

#if __has_include(<executorch/extension/threadpool/threadpool.h>)
#include <executorch/extension/threadpool/threadpool.h>
#else
// The wheel ships the library of the thread pool without its header; these are the parts that are used here, as
// ExecuTorch 1.5 declares them. The Python runtime's `_unsafe_reset_threadpool` calls the same.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t num_threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool
#endif

namespace runner {

using executorch::aten::ScalarType;
using executorch::extension::Module;
using executorch::runtime::Error;

namespace {

struct Kind {
  const char* name;
  ScalarType type;
  std::size_t bytes;
};

constexpr Kind kKinds[] = {{"float32", ScalarType::Float, 4}, {"float16", ScalarType::Half, 2},
                           {"int32", ScalarType::Int, 4},     {"int64", ScalarType::Long, 8},
                           {"int8", ScalarType::Char, 1},     {"uint8", ScalarType::Byte, 1},
                           {"bool", ScalarType::Bool, 1}};

const Kind& kind_of(const std::string& name) {
  for (const auto& kind : kKinds) {
    if (name == kind.name) return kind;
  }
  throw std::runtime_error("unknown type of numbers: " + name);
}

std::string name_of(ScalarType type) {
  for (const auto& kind : kKinds) {
    if (type == kind.type) return kind.name;
  }
  throw std::runtime_error("an output has a type of numbers that is not known here");
}

void must(Error error, const std::string& what) {
  if (error != Error::Ok) {
    throw std::runtime_error(what + " (" + executorch::runtime::to_string(error) + ")");
  }
}

}  // namespace

int set_threads(int threads) {
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (pool == nullptr) return 1;
  if (threads > 0 && !pool->_unsafe_reset_threadpool(static_cast<uint32_t>(threads))) {
    throw std::runtime_error("the thread pool cannot have " + std::to_string(threads) + " threads");
  }
  return static_cast<int>(pool->get_thread_count());
}

std::vector<std::string> backends() {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < executorch::runtime::get_num_registered_backends(); ++i) {
    const auto name = executorch::runtime::get_backend_name(i);
    if (name.ok()) names.emplace_back(*name);
  }
  return names;
}

Side::Side(const SideJob& job) : job_(job), feed_(read_file(job.input)) {
  const Kind& kind = kind_of(job.dtype);
  std::size_t bytes = kind.bytes;
  for (const int side : job.shape) {
    if (side < 1) throw std::runtime_error("an input's shape has a side below 1");
    bytes *= static_cast<std::size_t>(side);
  }
  if (bytes != feed_.size()) throw std::runtime_error("the input has another size than its shape says");
  if (!job.picture.empty()) picture_ = read_file(job.picture);
  tensor_ = executorch::extension::from_blob(feed_.data(), {job.shape.begin(), job.shape.end()}, kind.type);
}

double Side::load() {
  outputs_.clear();
  module_.reset();
  const double start = now_s();
  module_ = std::make_unique<Module>(job_.program, Module::LoadMode::Mmap);
  must(module_->load_forward(), job_.program + " cannot be loaded");
  return 1000 * (now_s() - start);
}

double Side::run() {
  const double start = now_s();
  auto outputs = module_->forward(tensor_);
  const double end = now_s();
  must(outputs.error(), job_.program + " cannot be run");
  outputs_ = std::move(*outputs);
  return 1000 * (end - start);
}

double Side::run_bare() {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"  // the module has no other way to its method
  auto method = module_->method("forward");
#pragma GCC diagnostic pop
  must(method.error(), job_.program + " cannot be run");
  // Memory planning gives an input's place to later tensors: it has to be set again.
  must((*method)->set_input(tensor_, 0), job_.program + " does not take its input");
  const double start = now_s();
  const Error error = (*method)->execute();
  const double end = now_s();
  must(error, job_.program + " cannot be run");
  return 1000 * (end - start);
}

std::vector<double> Side::end_to_end() {
  const double start = now_s();
  const Picture picture = decoded(picture_);
  const double seen = now_s();
  const Picture small = fitted(picture, job_.fit);
  std::vector<float> values(3u * small.height * small.width);
  planar(small, job_.scale, values.data());
  const double sized = now_s();
  auto input = executorch::extension::from_blob(values.data(), {job_.shape.begin(), job_.shape.end()});
  auto outputs = module_->forward(input);
  const double ran = now_s();
  must(outputs.error(), job_.program + " cannot be run");
  if (!outputs->empty() && outputs->front().isTensor()) {
    const auto tensor = outputs->front().toTensor();
    finished(job_.after, tensor.const_data_ptr(), {tensor.sizes().begin(), tensor.sizes().end()}, picture);
  }
  const double end = now_s();
  return {1000 * (end - start), 1000 * (seen - start), 1000 * (sized - seen), 1000 * (ran - sized), 1000 * (end - ran)};
}

std::vector<std::string> Side::write_outputs() {
  std::vector<std::string> told;
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    if (!outputs_[i].isTensor()) throw std::runtime_error("an output is no tensor");
    const auto tensor = outputs_[i].toTensor();
    std::string line = name_of(tensor.scalar_type()) + ' ';
    for (const auto side : tensor.sizes()) line += (line.back() == ' ' ? "" : ",") + std::to_string(side);
    told.push_back(line);
    const std::string path = job_.outputs + '.' + std::to_string(i) + ".bin";
    std::FILE* file = std::fopen(path.c_str(), "wb");
    bool good = file != nullptr && std::fwrite(tensor.const_data_ptr(), 1, tensor.nbytes(), file) == tensor.nbytes();
    if (file != nullptr) good = std::fclose(file) == 0 && good;
    if (!good) throw std::runtime_error(path + " cannot be written");
  }
  return told;
}

}  // namespace runner

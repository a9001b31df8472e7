// One artifact in the ExecuTorch runtime: loaded by mmap, fed with its known input.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include "job.h"

namespace runner {

// Sets the size of the runtime's thread pool (0 leaves it), before anything is loaded; returns what it has.
int set_threads(int threads);

// Delegates that this binary holds.
std::vector<std::string> backends();

class Side {
 public:
  // Reads the input; loads nothing. Throws std::runtime_error.
  explicit Side(const SideJob& job);
  // From the file to a method that can run; milliseconds. A second call loads anew.
  double load();
  // One run, around the method's call only; milliseconds.
  double run();
  // The same without the module around it, the input set before the clock starts. Needs a `run` before.
  double run_bare();
  // Decode, resize, forward, and what follows: five figures, whole first.
  std::vector<double> end_to_end();
  // Writes the outputs of the last run and returns their types and shapes, `float32 1,512`.
  std::vector<std::string> write_outputs();

  const SideJob& job() const { return job_; }
  const std::vector<unsigned char>& picture() const { return picture_; }

 private:
  SideJob job_;
  std::vector<unsigned char> feed_, picture_;
  executorch::extension::TensorPtr tensor_;
  std::unique_ptr<executorch::extension::Module> module_;
  std::vector<executorch::runtime::EValue> outputs_;
};

}  // namespace runner

// Times ExecuTorch programs on the device that this runs on, by the protocol of benchmarks/protocol.py.
//
//   mobileclip_runner JOB LOG
//   mobileclip_runner resize HEIGHT WIDTH RULE FILTER IN.png OUT.rgb     what a tower would see, to compare with Pillow
//
// JOB says what to do (job.h). LOG gets one JSON object a line while it is done; a run that ends early leaves the lines
// so far. Outputs are written before anything is timed, and with `wait_s` the runner waits for a word on them: whoever
// drives it holds them against the known answer, since a wrong artifact has no latency.
#include <unistd.h>

#include <cstdio>
#include <exception>

#include <executorch/runtime/platform/runtime.h>

#include "device.h"
#include "phases.h"
#include "picture.h"

namespace runner {

int measure(const Job& job, const std::string& folder, Log& log) {
  const int threads = set_threads(job.threads);
  log.write(Event("hello")
                .text("executorch", RUNNER_EXECUTORCH)
                .texts("backends", backends())
                .integer("threads", threads)
                .integers("affinity", affinity())
                .text("decoder", decoder())
                .integer("pid", getpid()));
  Sides sides;
  for (const auto& side : job.sides) sides.emplace_back(side);
  first_runs(sides, log);
  log.write(Event("proved"));
  if (!allowed(folder, job.wait_s)) {
    log.write(Event("stopped"));
    return 0;
  }
  log.write(thermal("before"));
  timed_runs(sides, job, log);
  if (job.end_to_end > 0) whole_runs(sides, job.end_to_end, log);
  if (job.sustained_s > 0) sustained_runs(sides, job.sustained_s, log);
  log.write(Event("memory").integer("peak_bytes", memory().peak));
  if (job.model_bench > 0) model_bench(sides, job.model_bench, log);
  log.write(thermal("after"));
  log.write(Event("done"));
  return 0;
}

int resize(char** arguments) {
  const Fit fit{arguments[4], std::stoi(arguments[2]), std::stoi(arguments[3]), std::string(arguments[5]) == "bicubic"};
  const Picture small = fitted(decoded(read_file(arguments[6])), fit);
  std::FILE* file = std::fopen(arguments[7], "wb");
  if (file == nullptr) throw std::runtime_error(std::string(arguments[7]) + " cannot be written");
  const bool good = std::fwrite(small.pixels.data(), 1, small.pixels.size(), file) == small.pixels.size();
  return std::fclose(file) == 0 && good ? 0 : 1;
}

}  // namespace runner

int main(int count, char** arguments) {
  try {
    if (count == 8 && std::string(arguments[1]) == "resize") return runner::resize(arguments);
    if (count != 3) {
      std::fprintf(stderr, "usage: mobileclip_runner JOB LOG\n");
      return 2;
    }
    executorch::runtime::runtime_init();
    const std::string path = arguments[2];
    const auto slash = path.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash);
    runner::Log log(path);
    try {
      return runner::measure(runner::read_job(arguments[1]), folder, log);
    } catch (const std::exception& error) {
      log.write(runner::Event("error").text("text", error.what()));
      throw;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mobileclip_runner: %s\n", error.what());
    return 1;
  }
}

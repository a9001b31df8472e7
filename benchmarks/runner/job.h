// What is to be done: a text file with one `key value` a line, files last on theirs, so that they may hold spaces.
//
//   threads 2                   of the runtime's pool; 0: its own choice
//   runs 200                    of each side at least, and `seconds 10`; `warmup_runs 10`, `warmup_s 1`
//   wait_s 60                   how long to wait for a file `go` or `stop` beside the log after the first runs; 0: not
//   end_to_end 10               runs from the encoded picture on; 0: none
//   sustained_s 300             0: none
//   model_bench 20              rounds with a new load each; 0: none
//   bare 1                      also time Method::execute() alone, to know what the call around it costs
//   side                        begins a side; what follows is its own
//   program model.pte
//   input float32 1,3,256,256 input.bin          little-endian, row by row
//   outputs out0                out0.0.bin, out0.1.bin, ... are written with what the first run gave
//   picture photo.jpg
//   fit shortest 256 256 bicubic                 or stretch, letterbox; bilinear; height and width of the input
//   scale 0.00392156886         what a pixel's byte is multiplied by
//   after normalise             or argmax, labels, none: what an app makes of the first output
#pragma once

#include <string>
#include <vector>

namespace runner {

struct Fit {
  std::string rule;  // shortest, stretch, letterbox
  int height = 0, width = 0;
  bool cubic = false;
};

struct SideJob {
  std::string program, input, outputs, picture, dtype, after = "none";
  std::vector<int> shape;
  Fit fit;
  float scale = 1;
};

struct Job {
  int threads = 0, runs = 200, warmup_runs = 10, end_to_end = 0, model_bench = 0;
  double seconds = 10, warmup_s = 1, wait_s = 0, sustained_s = 0;
  bool bare = false;
  std::vector<SideJob> sides;
};

// Throws std::runtime_error with the line that cannot be taken.
Job read_job(const std::string& path);

// The whole file. Throws std::runtime_error.
std::vector<unsigned char> read_file(const std::string& path);

}  // namespace runner

#include "job.h"

#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>

namespace runner {

namespace {

std::string rest_of(std::istringstream& line) {
  std::string text;
  std::getline(line >> std::ws, text);
  return text;
}

std::vector<int> shape_of(const std::string& text) {
  std::vector<int> shape;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) shape.push_back(std::stoi(part));
  return shape;
}

bool side_key(SideJob& side, const std::string& key, std::istringstream& line) {
  if (key == "program") {
    side.program = rest_of(line);
  } else if (key == "input") {
    std::string shape;
    line >> side.dtype >> shape;
    side.shape = shape_of(shape);
    side.input = rest_of(line);
  } else if (key == "outputs") {
    side.outputs = rest_of(line);
  } else if (key == "picture") {
    side.picture = rest_of(line);
  } else if (key == "fit") {
    std::string filter;
    line >> side.fit.rule >> side.fit.height >> side.fit.width >> filter;
    side.fit.cubic = filter == "bicubic";
  } else if (key == "scale") {
    line >> side.scale;
  } else if (key == "after") {
    line >> side.after;
  } else {
    return false;
  }
  return !line.fail();
}

bool job_key(Job& job, const std::string& key, std::istringstream& line) {
  if (key == "threads") {
    line >> job.threads;
  } else if (key == "runs") {
    line >> job.runs;
  } else if (key == "seconds") {
    line >> job.seconds;
  } else if (key == "warmup_runs") {
    line >> job.warmup_runs;
  } else if (key == "warmup_s") {
    line >> job.warmup_s;
  } else if (key == "wait_s") {
    line >> job.wait_s;
  } else if (key == "end_to_end") {
    line >> job.end_to_end;
  } else if (key == "sustained_s") {
    line >> job.sustained_s;
  } else if (key == "model_bench") {
    line >> job.model_bench;
  } else if (key == "bare") {
    line >> job.bare;
  } else {
    return false;
  }
  return !line.fail();
}

}  // namespace

Job read_job(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + " cannot be read");
  Job job;
  for (std::string text; std::getline(file, text);) {
    std::istringstream line(text);
    std::string key;
    if (!(line >> key)) continue;
    if (key == "side") {
      job.sides.emplace_back();
    } else if (!(job.sides.empty() ? job_key(job, key, line) : side_key(job.sides.back(), key, line))) {
      throw std::runtime_error("the job cannot be read at '" + text + "'");
    }
  }
  if (job.sides.empty()) throw std::runtime_error("the job has no side");
  return job;
}

std::vector<unsigned char> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + " cannot be read");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace runner

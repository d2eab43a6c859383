// The list of subcommands; a new cmd_*.cc is declared and named here and in CMakeLists.txt only.
#include "apps/command.h"

namespace quest::app {

std::unique_ptr<Command> make_bench_infer_command();
std::unique_ptr<Command> make_bench_kernels_command();
std::unique_ptr<Command> make_bench_peaks_command();
std::unique_ptr<Command> make_bench_train_command();
std::unique_ptr<Command> make_chat_command();
std::unique_ptr<Command> make_data_prepare_command();
std::unique_ptr<Command> make_data_synth_command();
std::unique_ptr<Command> make_eval_command();
std::unique_ptr<Command> make_export_command();
std::unique_ptr<Command> make_generate_command();
std::unique_ptr<Command> make_info_command();
std::unique_ptr<Command> make_selftest_command();
std::unique_ptr<Command> make_tokenizer_train_command();
std::unique_ptr<Command> make_train_command();

std::vector<std::unique_ptr<Command>> all_commands() {
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(make_data_synth_command());
  commands.push_back(make_data_prepare_command());
  commands.push_back(make_tokenizer_train_command());
  commands.push_back(make_train_command());
  commands.push_back(make_eval_command());
  commands.push_back(make_export_command());
  commands.push_back(make_generate_command());
  commands.push_back(make_chat_command());
  commands.push_back(make_info_command());
  commands.push_back(make_bench_peaks_command());
  commands.push_back(make_bench_kernels_command());
  commands.push_back(make_bench_train_command());
  commands.push_back(make_bench_infer_command());
  commands.push_back(make_selftest_command());
  return commands;
}

}  // namespace quest::app

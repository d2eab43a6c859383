// Parses the command line into a chosen Command; the errors that CLI11 finds become sentences here.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <map>

#include "apps/command.h"
#include "apps/help.h"
#include "apps/option_config.h"
#include "apps/output.h"
#include "apps/text.h"
#include "core/error.h"

namespace quest::app {
namespace {

struct Program {
  CLI::App root{
      "Trains, evaluates and samples language models with 1- to 8-bit weights and "
      "activations."};
  std::map<const CLI::App*, Command*> command_of;
  std::map<const CLI::App*, OptionConfig> config_of;  // of commands without settings of a run
};

const std::map<std::string, std::string> kGroupSummaries = {
    {"data", "Make and prepare training data"},
    {"tokenizer", "Train a tokenizer"},
    {"bench", "Measure this machine"},
};

// Usage errors are reported by our own check of what is left over, hence allow_extras.
CLI::App& add_app(CLI::App& parent, const std::string& name, const std::string& summary) {
  CLI::App* app = parent.add_subcommand(name, summary);
  app->allow_extras();
  app->require_subcommand(0, 1);
  app->set_help_all_flag("--help-all", "also show the less used options");
  return *app;
}

CLI::App& app_for(CLI::App& root, const CommandText& text) {
  const std::size_t space = text.name.find(' ');
  if (space == std::string::npos) return add_app(root, text.name, text.summary);
  const std::string group = text.name.substr(0, space);
  CLI::App* parent = nullptr;
  for (CLI::App* app : root.get_subcommands({})) {
    if (app->get_name() == group) parent = app;
  }
  if (parent == nullptr) {
    parent = &add_app(root, group, kGroupSummaries.at(group));
    parent->formatter(std::make_shared<HelpFormatter>(std::vector<std::string>{}));
  }
  return add_app(*parent, text.name.substr(space + 1), text.summary);
}

void build(Program& program, const std::vector<std::unique_ptr<Command>>& commands) {
  program.root.name("quest");
  program.root.allow_extras();
  program.root.require_subcommand(0, 1);
  const std::string version_help = "print the version and stop";
  program.root.add_flag("--version", version_help);
  program.root.formatter(
      std::make_shared<HelpFormatter>(std::vector<std::string>{"quest COMMAND --help"}));
  for (const auto& command : commands) {
    const CommandText text = command->text();
    CLI::App& app = app_for(program.root, text);
    app.formatter(std::make_shared<HelpFormatter>(text.examples));
    command->declare(app);
    program.command_of[&app] = command.get();
    if (app.get_option_no_throw("--config") == nullptr) program.config_of[&app].declare(app);
  }
}

const CLI::App& chosen_app(const CLI::App& root) {
  const CLI::App* app = &root;
  while (!app->get_subcommands().empty()) app = app->get_subcommands().front();
  return *app;
}

std::string full_name(const CLI::App& app) {
  const CLI::App* parent = app.get_parent();
  return parent == nullptr ? app.get_name() : full_name(*parent) + " " + app.get_name();
}

std::vector<std::string> flag_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

std::vector<std::string> subcommand_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* inner : app.get_subcommands({})) names.push_back(inner->get_name());
  return names;
}

// What no option or subcommand took; behind "--", CLI11 hands words to the app above.
std::vector<std::string> leftovers(const CLI::App& app) {
  std::vector<std::string> left = app.remaining();
  std::erase(left, "--");
  const CLI::App* parent = app.get_parent();
  return left.empty() && parent != nullptr ? leftovers(*parent) : left;
}

// The first word that no option or subcommand took is the error, whatever else is wrong.
void refuse_leftovers(const CLI::App& app) {
  const std::vector<std::string> left = leftovers(app);
  if (left.empty()) return;
  const std::string name = full_name(app);
  const std::string word = left.front().substr(0, left.front().find('='));
  // What is left to an app above stands before the command or behind "--", where no option is.
  if (word.starts_with("-") && !app.remaining().empty()) {
    throw UsageError(fmt::format("{} has no option '{}'{} (see {} --help)", name, word,
                                 nearest_hint(nearest_text(word, flag_names(app))), name));
  }
  const std::vector<std::string> names = subcommand_names(app);
  if (names.empty() || word.starts_with("-")) {
    throw UsageError(
        fmt::format("{} cannot use the argument '{}' (see {} --help)", name, word, name));
  }
  throw UsageError(fmt::format("{} has no command '{}'{} (see {} --help)", name, word,
                               nearest_hint(nearest_text(word, names)), name));
}

int print_help(const CLI::App& app, CLI::AppFormatMode mode) {
  const CLI::App* parent = app.get_parent();
  print_out(app.help(parent == nullptr ? "" : full_name(*parent), mode));
  return 0;
}

void parse(Program& program, int argc, const char* const* argv) {
  for (auto& [app, config] : program.config_of) config.relax();
  const auto restore = [&] {
    for (auto& [app, config] : program.config_of) config.restore();
  };
  try {
    program.root.parse(argc, argv);
  } catch (...) {
    restore();
    throw;
  }
  restore();
}

// An empty name of a file or folder is an unset variable of a script.
void refuse_empty_names(const CLI::App& app) {
  for (const CLI::Option* option : app.get_options()) {
    const std::string type = option->get_type_name();
    if ((type != "FILE" && type != "DIR") || option->count() == 0) continue;
    if (!option->results().back().empty()) continue;
    throw UsageError(fmt::format("--{} names no {}", option->get_lnames().front(),
                                 type == "FILE" ? "file" : "folder"));
  }
}

// Completes the options of `app` from its config; true when they were only to be printed.
bool finish_options(const Program& program, const CLI::App& app) {
  const auto found = program.config_of.find(&app);
  if (found == program.config_of.end()) return false;
  const OptionConfig& config = found->second;
  config.apply();
  if (config.print_requested()) {
    print_out(config.print());
    return true;
  }
  try {
    config.require_all();
    refuse_empty_names(app);
  } catch (const UsageError& error) {
    throw UsageError(fmt::format("{} (see {} --help)", error.what(), full_name(app)));
  }
  return false;
}

}  // namespace

int run_command_line(int argc, const char* const* argv,
                     const std::vector<std::unique_ptr<Command>>& commands) {
  Program program;
  build(program, commands);
  try {
    parse(program, argc, argv);
  } catch (const CLI::CallForHelp&) {
    return print_help(chosen_app(program.root), CLI::AppFormatMode::Normal);
  } catch (const CLI::CallForAllHelp&) {
    return print_help(chosen_app(program.root), CLI::AppFormatMode::All);
  } catch (const CLI::ParseError& error) {
    const CLI::App& app = chosen_app(program.root);
    refuse_leftovers(app);
    throw UsageError(fmt::format("{} (see {} --help)", error.what(), full_name(app)));
  }
  const CLI::App& app = chosen_app(program.root);
  if (program.root.get_option("--version")->count() > 0) {
    print_out("quest " QUEST_VERSION "\n");
    return 0;
  }
  refuse_leftovers(app);
  const auto command = program.command_of.find(&app);
  if (command == program.command_of.end()) {
    throw UsageError(
        fmt::format("{} needs a command (see {} --help)", full_name(app), full_name(app)));
  }
  return finish_options(program, app) ? 0 : command->second->run();
}

}  // namespace quest::app

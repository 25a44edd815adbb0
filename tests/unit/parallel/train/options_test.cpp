#include "apps/lockstep-train/options.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "lockstep/core/io/file.h"

namespace lockstep::app {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string message_of(const std::vector<std::string>& arguments) {
  try {
    parse_command_line(arguments);
  } catch (const UsageError& error) {
    return error.what();
  }
  return {};
}

class CommandLine : public ::testing::Test {
 protected:
  std::string config(const std::string& text) const {
    const std::string file = directory_.path() + "/c.toml";
    std::ofstream(file) << text;
    return file;
  }

 private:
  io::TempDirectory directory_;
};

TEST_F(CommandLine, DefaultsThenFileThenFlags) {
  const std::string file =
      config("model = \"mlp\"\nhidden = [7, 8]\ndata = \"d\"\nepochs = 3\nlr = 1\nmomentum = 0.5\njson = true\n");
  const Options options = parse_command_line({"--epochs", "4", "--config", file, "--hidden", "5,6"}).options;
  EXPECT_EQ(options.model, "mlp");
  EXPECT_EQ(options.data, "d");
  EXPECT_EQ(options.epochs, 4);                    // the flag wins
  EXPECT_THAT(options.hidden, ElementsAre(5, 6));  // ... and replaces a list
  EXPECT_EQ(options.lr, 1.0);                      // a whole number is a number
  EXPECT_EQ(options.momentum, 0.5);
  EXPECT_TRUE(options.json);
  EXPECT_EQ(options.batch_size, Options{}.batch_size);
  EXPECT_FALSE(parse_command_line({"--config", file, "--json=false"}).options.json);
  EXPECT_THAT(parse_command_line({"--config", file}).options.hidden, ElementsAre(7, 8));
}

TEST_F(CommandLine, TheFileIsJudgedByLine) {
  EXPECT_THAT(message_of({"--config", config("epochs = 3\nbatch_size = 4\n")}),
              ::testing::AllOf(HasSubstr("c.toml:2"), HasSubstr("'batch_size'")));
  EXPECT_THAT(message_of({"--config", config("\n[train]\nepochs = 3\n")}), HasSubstr("c.toml:2: unknown key 'train'"));
  EXPECT_THAT(message_of({"--config", config("epochs = 2.5\n")}), HasSubstr("c.toml:1: key 'epochs'"));
  EXPECT_THAT(message_of({"--config", config("lr = \"fast\"\n")}), HasSubstr("expected a number"));
  EXPECT_THAT(message_of({"--config", config("hidden = [1, \"x\"]\n")}), HasSubstr("list of whole numbers"));
  EXPECT_THAT(message_of({"--config", config("json = 1\n")}), HasSubstr("true or false"));
  EXPECT_THAT(message_of({"--config", config("epochs = = 3\n")}), HasSubstr("c.toml:1: no valid TOML"));
  EXPECT_THAT(message_of({"--config", config("epochs = 1\nepochs = 2\n")}), HasSubstr("c.toml:2"));
  EXPECT_THAT(message_of({"--config", "no/such.toml"}), HasSubstr("no/such.toml"));
  EXPECT_THAT(message_of({"--config", "."}), HasSubstr("configuration ."));
}

TEST_F(CommandLine, ValuesAreJudgedByName) {
  const auto with = [](const std::string& flag, const std::string& value) {
    return message_of({"--data", "d", flag, value});
  };
  EXPECT_EQ(with("--lr", "0.1"), "");
  EXPECT_THAT(with("--model", "vgg"), HasSubstr("--model 'vgg': expected one of mlp, lenet"));
  EXPECT_THAT(with("--dataset", "png"), HasSubstr("--dataset 'png'"));
  EXPECT_THAT(with("--lr-schedule", "step"), HasSubstr("--lr-schedule"));
  EXPECT_THAT(with("--batch-size", "0"), HasSubstr("--batch-size 0: expected"));
  EXPECT_THAT(with("--batch-size", "abc"), HasSubstr("--batch-size"));
  EXPECT_THAT(with("--lr", "-0.1"), HasSubstr("--lr -0.1: expected"));
  EXPECT_THAT(with("--lr", "nan"), HasSubstr("--lr"));
  EXPECT_THAT(with("--momentum", "1"), HasSubstr("--momentum"));
  EXPECT_THAT(with("--epochs", "0"), HasSubstr("--epochs"));
  EXPECT_THAT(with("--hidden", "3,0"), HasSubstr("--hidden"));
  EXPECT_THAT(with("--timeout", "0"), HasSubstr("--timeout"));
  EXPECT_THAT(with("--seed", "-1"), HasSubstr("--seed"));
  for (const char* bad :
       {"", ":", "5", "5:", ":5", "0:1", "1:0", "-1:2", "1:2:3", " 1:2", "1:2 ", "x:1", "1:99999999999999999999"}) {
    EXPECT_THAT(with("--trace-steps", bad), HasSubstr("expected FIRST:COUNT")) << bad;
  }
  EXPECT_THAT(message_of({"--data", "d", "--speed", "9"}), HasSubstr("--speed"));
  EXPECT_THAT(message_of({"--epochs", "2"}), HasSubstr("--data is missing"));
  EXPECT_THAT(message_of({"--data", "d", "stray"}), HasSubstr("stray"));
  for (const auto& message : {message_of({"--data", "d", "--speed", "9"}), with("--batch-size", "abc")}) {
    EXPECT_THAT(message, ::testing::Not(HasSubstr("\n")));
  }
}

TEST_F(CommandLine, StepsOfATrace) {
  EXPECT_EQ(parse_trace_steps("1:1"), std::pair(std::int64_t{1}, std::int64_t{1}));
  EXPECT_EQ(parse_trace_steps("20:9223372036854775807").second, 9223372036854775807);
  const std::string file = config("data = \"d\"\ntrace = \"t.json\"\ntrace-steps = \"7:3\"\n");
  const Options options = parse_command_line({"--config", file, "--trace-steps", "8:2"}).options;
  EXPECT_EQ(options.trace, "t.json");
  EXPECT_EQ(options.trace_steps, "8:2");
  EXPECT_EQ(parse_command_line({"--config", file}).options.trace_steps, "7:3");
}

TEST_F(CommandLine, HelpListsEveryOptionWithItsDefault) {
  const Command command = parse_command_line({"--help"});
  ASSERT_EQ(command.kind, Command::Kind::kHelp);
  Options options;
  for_each_option(options, [&](const char* name, const auto&, const char* help) {
    EXPECT_THAT(command.help, HasSubstr(std::string("--") + name));
    EXPECT_THAT(command.help, HasSubstr(std::string(help).substr(0, 20)));
  });
  EXPECT_THAT(command.help, HasSubstr("lenet"));
}

TEST_F(CommandLine, Compare) {
  const Command command = parse_command_line({"compare", "a.jsonl", "b.jsonl"});
  EXPECT_EQ(command.kind, Command::Kind::kCompare);
  EXPECT_EQ(command.main_metrics, "a.jsonl");
  EXPECT_EQ(command.control_metrics, "b.jsonl");
  EXPECT_THAT(message_of({"compare", "a.jsonl"}), HasSubstr("CONTROL"));
}

}  // namespace
}  // namespace lockstep::app

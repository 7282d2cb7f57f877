/* main.c - the `blade` command: finds the command and runs it. */
#include <stdio.h>
#include <string.h>

#include "cmd.h"
#include "timing.h"

typedef struct Command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about; /* NULL: not in the list, for tests */
} Command;

static const Command commands[] = {
    {"generate", cmd_generate, "continue prompts"},
    {"serve", cmd_serve, "answer requests over HTTP, as OpenAI's API does"},
    {"chat", cmd_chat, "talk to a model in the terminal"},
    {"tokenize", cmd_tokenize, "show the tokens of a text"},
    {"perplexity", cmd_perplexity, "measure how well a model predicts a text"},
    {"plan", cmd_plan, "show the exact memory plan before anything is loaded"},
    {"bench", cmd_bench, "measure speed, and its share of the machine's limits"},
    {"load", cmd_load, "send requests to a server and measure its latency"},
    {"logits", cmd_logits, NULL},
};

static void print_help(FILE *f)
{
    fputs("usage: blade COMMAND MODEL [options]\n\n"
          "Runs large language models through machine code that was generated for them. MODEL is the\n"
          "folder of a Hugging Face checkpoint (config.json, *.safetensors, tokenizer.json).\n\n"
          "commands:\n", f);
    for (size_t i = 0; i < COUNT(commands); i++)
        if (commands[i].about)
            fprintf(f, "  %-12s %s\n", commands[i].name, commands[i].about);
    fputs("\nblade COMMAND --help lists the options of a command; blade --version prints the version.\n", f);
}

int main(int argc, char **argv)
{
    timing_begin();
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name) {
        print_help(stderr);
        return 2;
    }
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
        print_help(stdout);
        return 0;
    }
    if (!strcmp(name, "--version")) {
        puts("blade " BLADE_VERSION);
        return 0;
    }
    for (size_t i = 0; i < COUNT(commands); i++)
        if (!strcmp(name, commands[i].name))
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "blade: there is no command \"%.100s\"; blade --help lists them\n", name);
    return 2;
}

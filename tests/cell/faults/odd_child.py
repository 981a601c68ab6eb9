"""A child whose every answer is the text of its spec."""

import argparse
import os

parser = argparse.ArgumentParser()
parser.add_argument("spec")
parser.add_argument("--fd-in", type=int)
parser.add_argument("--fd-out", type=int)
options = parser.parse_args()
with open(options.spec, encoding="utf-8") as file:
    answer = file.read()
with os.fdopen(options.fd_in) as commands, os.fdopen(options.fd_out, "w") as answers:
    for _ in commands:
        answers.write(answer + "\n")
        answers.flush()

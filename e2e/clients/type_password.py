"""Runs a command at a terminal of its own: FIRST SECOND COMMAND... types a password twice, and prints all that the
terminal shows."""

import os
import pty
import sys

first, second, *command = sys.argv[1:]
process, terminal = pty.fork()
if process == 0:
    os.execv(command[0], command)
shown = b""
answers = [(b"Password: ", first), (b"Again: ", second)]
while True:
    try:
        read = os.read(terminal, 1024)
    except OSError:
        # The end of the terminal.
        break
    if not read:
        break
    shown += read
    if answers and shown.endswith(answers[0][0]):
        os.write(terminal, answers.pop(0)[1].encode() + b"\n")
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))

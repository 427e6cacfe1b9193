//! Passwords that are typed: never an argument, which other users of the machine can see.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};

use anyhow::{Context, ensure};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Bytes that are read: more than a password may have.
const MOST: u64 = 1024;

/// Reads a password twice from the terminal, without showing it, or once from standard input.
///
/// # Errors
/// Names what to do.
pub(super) fn read(from_stdin: bool) -> anyhow::Result<String> {
    if from_stdin {
        let mut text = String::new();
        let read = std::io::stdin().take(MOST).read_to_string(&mut text);
        read.context("cannot read the password from standard input")?;
        let line = without_end(&text);
        ensure!(!line.contains(['\n', '\r']), "standard input has several lines: give the password alone");
        return Ok(line.to_owned());
    }
    let opened = File::options().read(true).write(true).open("/dev/tty");
    let terminal = opened.context("there is no terminal to type a password at: use --password-stdin")?;
    let quiet = Quiet::new(&terminal)?;
    let (first, second) = (quiet.ask("Password: ")?, quiet.ask("Again: ")?);
    ensure!(first == second, "the two are not the same: nothing was changed");
    Ok(first)
}

/// Removes the end of a line.
fn without_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn new(terminal: &'a File) -> anyhow::Result<Self> {
        let before = tcgetattr(terminal).context("cannot read the settings of the terminal")?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        // The end of the line is shown.
        quiet.local_modes.insert(LocalModes::ECHONL | LocalModes::ICANON);
        tcsetattr(terminal, OptionalActions::Flush, &quiet)
            .context("cannot hide what is typed: use --password-stdin")?;
        Ok(Self { terminal, before })
    }

    fn ask(&self, prompt: &str) -> anyhow::Result<String> {
        let mut terminal = self.terminal;
        terminal.write_all(prompt.as_bytes()).context("cannot write to the terminal")?;
        let mut line = String::new();
        // A terminal hands over one line at a time.
        BufReader::new(terminal.take(MOST)).read_line(&mut line).context("cannot read from the terminal")?;
        ensure!(line.ends_with('\n'), "the password was not typed to its end");
        Ok(without_end(&line).to_owned())
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // The terminal may be gone.
        tcsetattr(self.terminal, OptionalActions::Flush, &self.before).ok();
    }
}

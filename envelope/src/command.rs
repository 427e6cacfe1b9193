//! The command of a key management service: `COMMAND… wrap` and `COMMAND… unwrap`.
//!
//! It receives one line of base64 on its standard input and answers with one line of base64. It is
//! run without a shell, for at most [`DEADLINE`], and at the start and at a rotation only.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::kek::KekError;

/// Time for one call.
const DEADLINE: Duration = Duration::from_secs(20);
/// Longest answer: an envelope of any service is shorter.
const MAX_ANSWER_BYTES: u64 = 16 << 10;

/// Runs the command with `verb` and `input`; returns its answer.
pub(crate) fn call(command: &[String], verb: &str, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, KekError> {
    call_within(command, verb, input, DEADLINE)
}

pub(crate) fn call_within(
    command: &[String],
    verb: &str,
    input: &[u8],
    deadline: Duration,
) -> Result<Zeroizing<Vec<u8>>, KekError> {
    let shown = command.first().map_or("", String::as_str);
    let failed = |reason: String| KekError::Command { command: format!("{shown} … {verb}"), reason };
    let (program, arguments) = command.split_first().ok_or_else(|| failed("it is empty".to_owned()))?;
    let child = Command::new(program)
        .args(arguments)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn();
    let mut child = child.map_err(|error| failed(format!("it cannot be run: {error}")))?;
    let until = Instant::now() + deadline;
    let answer = exchange(&mut child, input, deadline);
    if answer.is_err() {
        // It may have ended meanwhile.
        child.kill().ok();
    }
    let ended = end(&mut child, until).map_err(|error| failed(error.to_string()))?;
    let answer = answer.map_err(failed)?;
    let ended = ended.ok_or_else(|| failed(format!("it did not end within {} s", deadline.as_secs_f32())))?;
    if !ended.success() {
        return Err(failed(format!("it failed ({ended}): its own message is in the log")));
    }
    let text = std::str::from_utf8(&answer).map_err(|_| failed("its answer is not text".to_owned()))?;
    let decoded = STANDARD.decode(text.trim()).map_err(|_| failed("its answer is not base64".to_owned()))?;
    Ok(Zeroizing::new(decoded))
}

/// Waits for the end of the command. `None` when it was killed, since the time is over.
#[expect(clippy::disallowed_methods, reason = "between two looks at another process")]
fn end(child: &mut Child, until: Instant) -> std::io::Result<Option<ExitStatus>> {
    loop {
        if let Some(ended) = child.try_wait()? {
            return Ok(Some(ended));
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Writes the input and reads the answer to its end.
fn exchange(child: &mut Child, input: &[u8], deadline: Duration) -> Result<Zeroizing<Vec<u8>>, String> {
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("it has no standard input and output".to_owned());
    };
    let line = Zeroizing::new(format!("{}\n", STANDARD.encode(input)));
    // Shorter than the buffer of a pipe. A command that does not read it shows in its answer.
    if let Err(error) = stdin.write_all(line.as_bytes()) {
        tracing::debug!(%error, "the key command did not read its input");
    }
    drop(stdin);
    let (sender, answer) = mpsc::channel();
    let reader = std::thread::Builder::new().name("key-command".into()).spawn(move || {
        let mut bytes = Zeroizing::new(Vec::new());
        let read = stdout.take(MAX_ANSWER_BYTES + 1).read_to_end(&mut bytes);
        // The receiver has given up when it is gone.
        sender.send(read.map(|_| bytes)).ok();
    });
    reader.map_err(|error| format!("no thread can be started: {error}"))?;
    let bytes = match answer.recv_timeout(deadline) {
        Ok(read) => read.map_err(|error| error.to_string())?,
        Err(_) => return Err(format!("it did not answer within {} s", deadline.as_secs_f32())),
    };
    if bytes.len() as u64 > MAX_ANSWER_BYTES {
        return Err(format!("its answer has more than {MAX_ANSWER_BYTES} bytes"));
    }
    Ok(bytes)
}

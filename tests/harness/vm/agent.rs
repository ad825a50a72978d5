//! A shell in a virtual machine, behind a virtio port.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Doing, Error};
use crate::wait_for;

/// What the shell says first.
const READY: &str = "@@0@@";

/// Most bytes of one answer.
const MAX_ANSWER: usize = 64 << 20;

/// Longest command line.
const MAX_COMMAND: usize = 16 << 10;

/// The near end of the line to the machine.
pub(super) struct Agent {
    line: UnixStream,
    heard: Vec<u8>,
    count: u64,
    ready: bool,
}

/// What a command printed, and its exit code.
pub(super) struct Answer {
    pub(super) code: i32,
    pub(super) output: String,
}

impl Agent {
    /// Connects to the emulator's socket for the line.
    pub(super) fn connect(socket: &Path, limit: Duration) -> Result<Self, Error> {
        let line = wait_for("the line to the machine is there", limit, || {
            UnixStream::connect(socket).map_err(|error| error.to_string())
        })?;
        line.set_nonblocking(true).doing(|| "prepare the line to the machine".to_owned())?;
        Ok(Self { line, heard: Vec::new(), count: 0, ready: false })
    }

    /// Runs a command line in the shell.
    ///
    /// # Errors
    /// When there is no answer within `limit`.
    pub(super) fn run(&mut self, command: &str, limit: Duration) -> Result<Answer, Error> {
        if command.len() > MAX_COMMAND {
            return Err(Error::Unexpected(format!("{command} is too long for the line to the machine")));
        }
        let start = Instant::now();
        if !self.ready {
            self.await_shell(limit)?;
        }
        let mark = self.next_mark();
        self.send(&format!("( {command}\n) 2>&1 </dev/null; echo {} $?\n", quoted(&mark)))?;
        let rest = limit.saturating_sub(start.elapsed());
        let heard = wait_for(&format!("`{command}` ends in the virtual machine"), rest, || self.hear(&mark));
        if heard.is_err() {
            // What comes of it later belongs to no question.
            self.ready = false;
        }
        let (output, code) = heard?.doing(|| format!("run `{command}` in the virtual machine"))?;
        Ok(Answer { code: code.trim().parse().unwrap_or(-1), output })
    }

    /// Another shell listens from now on, because the machine has started another kernel.
    pub(super) fn expect_another(&mut self) {
        self.ready = false;
    }

    /// Waits until the shell says that it listens, or, where it does so already, answers.
    fn await_shell(&mut self, limit: Duration) -> Result<(), Error> {
        let mut mark = READY.to_owned();
        if self.count > 0 {
            mark = self.next_mark();
            self.send(&format!("\necho {} 0\n", quoted(&mark)))?;
        }
        wait_for("the shell in the virtual machine answers", limit, || self.hear(&mark))?
            .doing(|| "talk to the shell in the virtual machine".to_owned())?;
        self.ready = true;
        Ok(())
    }

    fn next_mark(&mut self) -> String {
        self.count += 1;
        format!("@@{}@@", self.count)
    }

    fn send(&mut self, text: &str) -> Result<(), Error> {
        let mut left = text.as_bytes();
        wait_for("the line to the machine takes a command", Duration::from_secs(30), || {
            match self.line.write(left) {
                Ok(length) if length == left.len() => Ok(Ok(())),
                Ok(length) => {
                    left = &left[length..];
                    Err("it takes it slowly".to_owned())
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => Err("it is busy".to_owned()),
                Err(error) => Ok(Err(error)),
            }
        })?
        .doing(|| "write to the line to the machine".to_owned())
    }

    /// What came before the mark, and the rest of the mark's line; or that nothing will come any more.
    fn hear(&mut self, mark: &str) -> Result<std::io::Result<(String, String)>, String> {
        let mut buffer = [0; 8192];
        let mut ended = false;
        loop {
            match self.line.read(&mut buffer) {
                Ok(0) => {
                    ended = true;
                    break;
                }
                Ok(length) if self.heard.len() + length <= MAX_ANSWER => {
                    self.heard.extend(&buffer[..length]);
                }
                Ok(_) => return Err("the answer is too long".to_owned()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.to_string()),
            }
        }
        let said = String::from_utf8_lossy(&self.heard).replace('\r', "");
        let answer =
            said.split_once(mark).and_then(|(before, after)| Some((before, after.split_once('\n')?)));
        match answer {
            Some((before, (code, _))) => {
                let found = (before.to_owned(), code.to_owned());
                self.heard.clear();
                Ok(Ok(found))
            }
            None if ended => Ok(Err(ErrorKind::UnexpectedEof.into())),
            None => Err(format!("heard: {said:?}")),
        }
    }
}

/// The mark as the shell reads it, which is not how it prints it: a command may show itself.
fn quoted(mark: &str) -> String {
    mark.replacen("@@", "@''@", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_no_answer() {
        let (near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let mut agent = Agent { line: near, heard: Vec::new(), count: 6, ready: true };
        let mark = agent.next_mark();
        write!(far, "( x\n) 2>&1 </dev/null; echo {} $?\r\n", quoted(&mark)).unwrap();
        assert!(agent.hear(&mark).is_err());
        write!(far, "one\r\ntwo\r\n{mark} 3\r\n").unwrap();
        let (output, code) = agent.hear(&mark).unwrap().unwrap();
        assert!(output.ends_with("one\ntwo\n") && code == " 3", "{output:?} {code:?}");
        drop(far);
        assert!(matches!(agent.hear(&mark), Ok(Err(error)) if error.kind() == ErrorKind::UnexpectedEof));
    }
}
